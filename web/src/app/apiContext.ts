import { createContext, use } from 'react';
import type { Api } from '../api/api';

export const ApiContext = createContext<Api | undefined>(undefined);

/** The service, as the person who signed in. */
export function useApi(): Api {
  const api = use(ApiContext);
  if (api === undefined) {
    throw new Error('useApi is used by nobody who signed in');
  }
  return api;
}
