import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { BUILDS_KEY, type BuildFilter } from '../api/api';
import { useApi } from '../app/apiContext';
import { detailInterval, listInterval } from './build';

// Both ask again by themselves; not while the page is hidden, and at once when it is looked at again.

/** Builds, the one something was last learned about first; live. */
export function useBuilds(filter: BuildFilter) {
  const api = useApi();
  return useQuery({
    queryKey: [...BUILDS_KEY, 'list', filter],
    queryFn: ({ signal }) => api.builds(filter, signal),
    // The list stays on the screen while more of it is loaded; another user's builds are not shown as this one's.
    placeholderData: (before, query) => {
      const was = query?.queryKey[2];
      return typeof was === 'object' && was.user === filter.user
        ? keepPreviousData(before)
        : undefined;
    },
    refetchInterval: (query) => listInterval(query.state.data),
  });
}

/** One build with its timeline; live until its end. */
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
