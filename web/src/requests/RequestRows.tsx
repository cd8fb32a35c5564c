import { RepoIcon } from '@primer/octicons-react';
import { Button, Link } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import { useEffect, useRef, useState } from 'react';
import type { UserRepository } from '../api/api';
import { ApiError, explanationOf, hasCode } from '../api/problem';
import { ChargeText } from '../mapping/ChargeText';
import { chargeOf } from '../mapping/charge';
import { Refusal } from '../mapping/Refusal';
import { fullNameOf } from '../mapping/repositoryName';
import { PageLink } from '../ui/links';
import { Ago } from '../ui/When';
import styles from './RequestRows.module.css';
import { type Outcome, useDecision } from './useRequests';

interface Props {
  readonly requests: readonly UserRepository[];
  /** Whether each row names the user. */
  readonly users: boolean;
  /** Shown above the rows, if there are any. */
  readonly heading?: React.ReactNode;
}

interface Decided {
  readonly request: UserRepository;
  readonly outcome: Outcome;
}

/** Pending requests to grant or refuse, and the outcome of the last decision. */
export function RequestRows({ requests, users, heading }: Props) {
  const [decided, setDecided] = useState<Decided>();
  const outcome = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // The row disappears with its buttons, so the focus moves to the outcome, which is read aloud.
    if (decided !== undefined) {
      outcome.current?.focus();
    }
  }, [decided]);

  return (
    <>
      {decided && (
        <div ref={outcome} tabIndex={-1} className={styles.outcome}>
          <InlineMessage variant={decided.outcome === 'gone' ? 'warning' : 'success'}>
            {inWords(decided)}
          </InlineMessage>
        </div>
      )}
      {requests.length > 0 && heading}
      {requests.length > 0 && (
        <ul className={styles.list} aria-label="Requests">
          {requests.map((request) => (
            <Row
              key={`${request.user} ${request.id} ${request.cluster}`}
              request={request}
              users={users}
              onDecided={(request, outcome) => setDecided({ request, outcome })}
            />
          ))}
        </ul>
      )}
    </>
  );
}

function inWords({ request: { url, user }, outcome }: Decided): string {
  const name = fullNameOf(url);
  switch (outcome) {
    case 'granted':
      return `Granted. ${name} is now mapped to ${user}.`;
    case 'refused':
      return `Refused. ${name} is not mapped to ${user}. The user can ask again.`;
    case 'gone':
      return `No change: the request for ${name} is no longer pending. ${user} withdrew it, or another administrator decided.`;
  }
}

interface RowProps {
  readonly request: UserRepository;
  readonly users: boolean;
  readonly onDecided: (request: UserRepository, outcome: Outcome) => void;
}

function Row({ request, users, onDecided }: RowProps) {
  const decision = useDecision(request, onDecided);
  const { user, url, requestedAt, cluster } = request;
  const name = fullNameOf(url);
  const charge = chargeOf(request);
  const busy = (verdict: typeof decision.variables) =>
    decision.isPending && decision.variables === verdict;
  const decide = (verdict: 'grant' | 'refuse') => {
    if (!decision.isPending) {
      decision.mutate(verdict);
    }
  };
  return (
    <li className={styles.row}>
      <span className={styles.icon}>
        <RepoIcon />
      </span>
      <div className={styles.what}>
        <Link href={url} className={styles.name}>
          {name}
        </Link>
        <div className={styles.facts}>
          {users ? (
            <>
              For{' '}
              <PageLink to="/mapping" search={{ user }} inline className={styles.user}>
                {user}
              </PageLink>
              , requested
            </>
          ) : (
            'Requested'
          )}
          {requestedAt != null && (
            <>
              {' '}
              <Ago at={requestedAt} />
            </>
          )}
          {cluster != null && ` from cluster ${cluster}`}
        </div>
        <ChargeText charge={charge} />
      </div>
      <div className={styles.buttons}>
        <Button
          aria-label={`Grant ${name} to ${user}`}
          aria-disabled={decision.isPending}
          onClick={() => decide('grant')}
        >
          {busy('grant') ? 'Granting…' : 'Grant'}
        </Button>
        <Button
          aria-label={`Refuse ${name} to ${user}`}
          aria-disabled={decision.isPending}
          variant="danger"
          onClick={() => decide('refuse')}
        >
          {busy('refuse') ? 'Refusing…' : 'Refuse'}
        </Button>
      </div>
      <div role="status" className={styles.failure}>
        {decision.isError && <Failure error={decision.error} />}
      </div>
    </li>
  );
}

/** Why a decision failed. */
function Failure({ error }: { readonly error: Error }) {
  if (hasCode(error, 'request_changed')) {
    return <InlineMessage variant="warning">{explanationOf(error)}</InlineMessage>;
  }
  const part = error instanceof ApiError ? error.problem.errors?.[0] : undefined;
  if (part === undefined) {
    return <InlineMessage variant="critical">{explanationOf(error)}</InlineMessage>;
  }
  return (
    <>
      <Refusal part={part} />
      {hasCode(error, 'repository_mapped_elsewhere') && (
        <div className={styles.hint}>
          The request is still pending. Grant it after the other user has removed the repository, or
          refuse it.
        </div>
      )}
    </>
  );
}
