import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { BUILDS_KEY, type BuildFilter } from '../api/api';
import { useApi } from '../app/apiContext';
import { detailInterval, listInterval } from './build';

// Both hooks poll. They pause while the page is hidden and refetch at once when it becomes visible.

/** A live list of builds, the most recently updated first. */
export function useBuilds(filter: BuildFilter) {
  const api = useApi();
  return useQuery({
    queryKey: [...BUILDS_KEY, 'list', filter],
    queryFn: ({ signal }) => api.builds(filter, signal),
    // Keeps the list on the screen while more of it loads, but never shows one user's builds as another's.
    placeholderData: (before, query) => {
      const was = query?.queryKey[2];
      return typeof was === 'object' && was.user === filter.user
        ? keepPreviousData(before)
        : undefined;
    },
    refetchInterval: (query) => listInterval(query.state.data),
  });
}

/** One build with its timeline, live until the build ends. */
export function useBuild(workflowJobId: number) {
  const api = useApi();
  return useQuery({
    queryKey: [...BUILDS_KEY, 'detail', workflowJobId],
    queryFn: ({ signal }) => api.build(workflowJobId, signal),
    refetchInterval: (query) =>
      query.state.error === null || query.state.data !== undefined
        ? detailInterval(query.state.data?.build, Date.now())
        : false,
  });
}
