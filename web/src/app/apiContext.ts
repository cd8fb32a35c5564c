import { createContext, use } from 'react';
import type { Api } from '../api/api';

export const ApiContext = createContext<Api | undefined>(undefined);

/** The API client of the signed-in user. */
export function useApi(): Api {
  const api = use(ApiContext);
  if (api === undefined) {
    throw new Error('useApi needs a signed-in user');
  }
  return api;
}
