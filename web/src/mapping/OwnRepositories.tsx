import { useConfirm } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useRef } from 'react';
import { BUILDS_KEY, type UserRepository } from '../api/api';
import { ApiError, explanationOf, type ProblemPart } from '../api/problem';
import { useApi } from '../app/apiContext';
import { ProblemBanner } from '../ui/ProblemBanner';
import { Status } from '../ui/Status';
import { AddRepositories } from './AddRepositories';
import { chargeOf } from './charge';
import type { Entry } from './draft';
import { MappingFrame } from './MappingFrame';
import { Refusal } from './Refusal';
import { RepositoryRows } from './RepositoryRows';
import { fullNameOf, keyOf } from './repositoryName';

/**
 * A person's own repositories. Unlike an administrator's edits, each change is sent at once: an addition waits for an
 * administrator, and a removal takes effect immediately.
 */
export function OwnRepositories({ user }: { readonly user: string }) {
  const own = useOwnRepositories(user);
  const input = useRef<HTMLInputElement>(null);
  const confirm = useConfirm();

  async function remove({ repository, request }: Entry) {
    const name = fullNameOf(repository);
    const sure =
      request !== undefined ||
      (await confirm({
        title: `Remove ${name}?`,
        content:
          'Runners waiting for it will be withdrawn. Running workflow jobs will finish. To add it again, you need an administrator.',
        confirmButtonContent: 'Remove',
        confirmButtonType: 'danger',
      }));
    if (sure) {
      own.change.mutate({ remove: request ?? repository });
      // The row disappears with its button, so the focus must move.
      input.current?.focus();
    }
  }

  return (
    <MappingFrame user={user} list={own.list}>
      {own.entries && (
        <>
          <AddRepositories
            ref={input}
            entries={own.entries}
            onAdd={(repositories) => {
              if (repositories.length > 0) {
                own.change.mutate({ add: repositories });
              }
            }}
          />
          <Status>
            {own.change.data?.map((outcome) => (
              <Message key={outcome.repository} {...outcome} />
            ))}
          </Status>
          {own.change.isError && (
            <ProblemBanner title="Could not change the list" error={own.change.error} />
          )}
          <RepositoryRows
            entries={own.entries}
            howToAdd="Add a repository above. The GitHub App must be installed on it. Its queued workflow jobs start once an administrator has granted your request."
            onRemove={(entry) => void remove(entry)}
          />
        </>
      )}
    </MappingFrame>
  );
}

/** What became of a change to one repository. */
interface Outcome {
  readonly repository: string;
  readonly done: UserRepository['state'] | 'removed' | 'withdrawn' | Error;
}

type Change =
  | { readonly add: readonly string[] }
  /** A repository of the list, or a request. */
  | { readonly remove: string | UserRepository };

function useOwnRepositories(user: string) {
  const api = useApi();
  const queries = useQueryClient();
  const queryKey = ['own-repositories', user];
  const list = useQuery({
    queryKey,
    queryFn: ({ signal }) => api.userRepositories(user, signal),
    // An administrator may decide at any time.
    refetchInterval: 30_000,
  });
  const removal = async (what: string | UserRepository): Promise<Outcome> =>
    typeof what === 'string'
      ? {
          repository: what,
          done: await api.removeRepository(user, what).then(() => 'removed', refusalOf),
        }
      : { repository: what.url, done: await api.refuse(what).then(() => 'withdrawn', refusalOf) };
  const change = useMutation({
    mutationFn: async (wanted: Change) => {
      if ('remove' in wanted) {
        return [await removal(wanted.remove)];
      }
      const outcomes: Outcome[] = [];
      for (const repository of wanted.add) {
        const added = api.addRepository(user, repository);
        outcomes.push({ repository, done: await added.then(({ state }) => state, refusalOf) });
      }
      return outcomes;
    },
    // One change after the other, so that the outcome of each is shown.
    scope: { id: `own-repositories ${user}` },
    onSettled: () => {
      void queries.invalidateQueries({ queryKey: BUILDS_KEY });
      return queries.invalidateQueries({ queryKey });
    },
  });
  return { list, entries: list.data?.map(entryOf), change };
}

/** Returns why one repository was refused; the others are not. Any other failure ends the change. */
function refusalOf(error: unknown): Error {
  if (error instanceof ApiError && error.problem.status !== 401) {
    return error;
  }
  throw error;
}

function entryOf(each: UserRepository): Entry {
  return {
    repository: each.url,
    key: keyOf(each.url),
    change: 'kept',
    charge: chargeOf(each),
    recharged: false,
    refusal: undefined,
    request: each.state === 'waiting' ? each : undefined,
  };
}

function Message({ repository, done }: Outcome) {
  const name = fullNameOf(repository);
  if (done instanceof Error) {
    const part: ProblemPart | undefined =
      done instanceof ApiError ? done.problem.errors?.[0] : undefined;
    const detail = `${name}: ${part?.detail ?? explanationOf(done)}`;
    return <Refusal part={{ code: 'refused', ...part, detail }} />;
  }
  return <InlineMessage variant="success">{TEXTS[done](name)}</InlineMessage>;
}

const TEXTS = {
  waiting: (name: string) => `Requested. ${name} is waiting for an administrator.`,
  mapped: (name: string) => `Added. ${name} is in the list.`,
  removed: (name: string) => `Removed. ${name} is no longer in the list.`,
  withdrawn: (name: string) => `Withdrawn. ${name} is no longer requested.`,
} as const;
