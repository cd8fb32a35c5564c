import { useQuery } from '@tanstack/react-query';
import type { UsageFilter } from '../api/api';
import { useApi } from '../app/apiContext';

/** The usage of a month. */
export function useUsage(filter: UsageFilter) {
  const api = useApi();
  return useQuery({
    queryKey: ['usage', filter],
    queryFn: ({ signal }) => api.usage(filter, signal),
  });
}
