import { type QueryClient, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { type Api, BUILDS_KEY, REQUESTS_KEY, type UserRepository } from '../api/api';
import { hasCode } from '../api/problem';
import { useApi } from '../app/apiContext';
import { difference, isUnsaved, rebase } from '../mapping/draft';
import { useDrafts } from '../mapping/drafts';
import { keyOf } from '../mapping/repositoryName';
import { listQuery } from '../mapping/useMapping';
import { useMe } from '../session/session';

/** The polling interval in milliseconds. */
const INTERVAL = 30_000;

/** A live list of all users' pending requests, oldest first. Only administrators see it. */
export function useRequests() {
  const api = useApi();
  const { administrator } = useMe();
  return useQuery({
    queryKey: REQUESTS_KEY,
    queryFn: ({ signal }) => api.mappingRequests(signal),
    refetchInterval: INTERVAL,
    enabled: administrator,
  });
}

export type Verdict = 'grant' | 'refuse';
/** The outcome of a decision. `gone`: the request was no longer pending. */
export type Outcome = 'granted' | 'refused' | 'gone';

/** Grants or refuses one request. */
export function useDecision(
  request: UserRepository,
  onDecided: (request: UserRepository, outcome: Outcome) => void,
) {
  const api = useApi();
  const queries = useQueryClient();
  const drafts = useDrafts();
  return useMutation({
    mutationFn: (verdict: Verdict) => decide(api, request, verdict),
    onSuccess: (outcome) => {
      onDecided(request, outcome);
      queries.setQueryData<UserRepository[]>(REQUESTS_KEY, (before) =>
        before?.filter((each) => !isSame(each, request)),
      );
      void queries.invalidateQueries({ queryKey: REQUESTS_KEY });
      void queries.invalidateQueries({ queryKey: BUILDS_KEY });
      void reload(api, queries, drafts, request, outcome);
    },
    onError: (error) => {
      if (hasCode(error, 'request_changed')) {
        // The row then shows the request as it is now, beside the reason.
        void queries.invalidateQueries({ queryKey: REQUESTS_KEY });
      }
    },
  });
}

/** Whether both are requests of one user for one repository. Users of the same name on two clusters are two people. */
function isSame(one: UserRepository, other: UserRepository): boolean {
  return one.id === other.id && one.user === other.user && one.cluster === other.cluster;
}

async function decide(api: Api, request: UserRepository, verdict: Verdict): Promise<Outcome> {
  try {
    await (verdict === 'grant' ? api.grant(request) : api.refuse(request));
    return verdict === 'grant' ? 'granted' : 'refused';
  } catch (error) {
    if (hasCode(error, 'repository_not_waiting')) {
      return 'gone';
    }
    throw error;
  }
}

/** Loads the user's list again and rebases unsaved edits on it: a grant made here is no conflict with them. */
async function reload(
  api: Api,
  queries: QueryClient,
  drafts: ReturnType<typeof useDrafts>,
  { user, url }: UserRepository,
  outcome: Outcome,
) {
  const query = listQuery(api, user);
  await queries.invalidateQueries({ queryKey: query.queryKey, refetchType: 'all' });
  const list = queries.getQueryData(query.queryKey);
  if (outcome !== 'granted') {
    return;
  }
  drafts.update(user, (draft) => {
    if (draft === undefined || list === undefined) {
      return draft;
    }
    const { added, removed, recharged } = difference(draft.base, list);
    const onlyThis = added.every((each) => keyOf(each) === keyOf(url));
    if (!onlyThis || removed.length > 0 || recharged.length > 0) {
      return draft;
    }
    const after = rebase(draft, list);
    return isUnsaved(after) ? after : undefined;
  });
}
