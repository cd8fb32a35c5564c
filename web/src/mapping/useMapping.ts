import { queryOptions, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { type Api, BUILDS_KEY, REQUESTS_KEY } from '../api/api';
import { ApiError, hasCode } from '../api/problem';
import { useApi } from '../app/apiContext';
import type { Charge } from './charge';
import {
  add,
  chargesWhenSaved,
  type Draft,
  difference,
  emptyDraft,
  isUnsaved,
  rebase,
  recharge,
  remove,
  restore,
  wanted,
  withRefusals,
} from './draft';
import { useDrafts } from './drafts';
import { keyOf } from './repositoryName';

export function listQuery(api: Api, user: string) {
  return queryOptions({
    queryKey: ['repositories', user],
    queryFn: ({ signal }) => api.repositories(user, signal),
  });
}

/** A Slurm user's saved list, the edits to it, and the actions on them. */
export function useMapping(user: string) {
  const api = useApi();
  const queries = useQueryClient();
  const drafts = useDrafts();
  const query = listQuery(api, user);
  const list = useQuery(query);

  const kept = drafts.of(user);
  const draft = kept ?? (list.data === undefined ? undefined : emptyDraft(list.data));

  const edit = (change: (draft: Draft) => Draft) => {
    drafts.update(user, (before) => {
      const from = before ?? (list.data === undefined ? undefined : emptyDraft(list.data));
      const after = from === undefined ? undefined : change(from);
      return after !== undefined && isUnsaved(after) ? after : undefined;
    });
  };

  const save = useMutation({
    mutationFn: (sent: Draft) => api.replaceRepositories(user, wanted(sent), sent.base.etag),
    onSuccess: (saved, sent) => {
      queries.setQueryData(query.queryKey, {
        ...saved,
        charges: chargesWhenSaved(sent, saved.repositories),
      });
      drafts.update(user, () => undefined);
      void queries.invalidateQueries({ queryKey: query.queryKey });
      // A newly mapped repository may start waiting workflow jobs, and its request is settled.
      void queries.invalidateQueries({ queryKey: BUILDS_KEY });
      void queries.invalidateQueries({ queryKey: REQUESTS_KEY });
    },
    onError: (error, sent) => {
      if (hasCode(error, 'mapping_changed')) {
        // Loads the newer list, which shows the conflict.
        void queries.invalidateQueries({ queryKey: query.queryKey });
      } else if (error instanceof ApiError) {
        const parts = error.problem.errors ?? [];
        drafts.update(user, (before) => before && withRefusals(before, wanted(sent), parts));
      }
    },
  });

  // The saved list changed under the edits. Noticed on saving, or earlier, when the list is fetched again.
  const newer =
    kept !== undefined && list.data !== undefined && list.data.etag !== kept.base.etag
      ? list.data
      : undefined;

  return {
    list,
    draft,
    unsaved: kept !== undefined,
    save,
    conflict:
      kept === undefined || newer === undefined
        ? undefined
        : { ...difference(kept.base, newer), rebase: () => edit((d) => rebase(d, newer)) },
    submit: () => {
      if (draft !== undefined && !save.isPending) {
        save.mutate(draft);
      }
    },
    /** `asked`: the charges that the user's pending requests name, by key. */
    add: (repositories: readonly string[], asked: ReadonlyMap<string, Charge>) =>
      edit((d) =>
        repositories.reduce((before, each) => {
          const charge = asked.get(keyOf(each));
          const after = add(before, each);
          return charge === undefined ? after : recharge(after, keyOf(each), charge);
        }, d),
      ),
    remove: (key: string) => edit((d) => remove(d, key)),
    recharge: (key: string, charge: Charge) => edit((d) => recharge(d, key, charge)),
    restore: (key: string) => edit((d) => restore(d, key)),
    discard: () => {
      save.reset();
      drafts.update(user, () => undefined);
    },
  };
}

export type Mapping = ReturnType<typeof useMapping>;
