import { GraphIcon } from '@primer/octicons-react';
import { FormControl, Link, SkeletonBox, TextInput } from '@primer/react';
import { Blankslate } from '@primer/react/experimental';
import { useNavigate, useSearch } from '@tanstack/react-router';
import type { UsageSum } from '../api/api';
import { fullNameOf } from '../mapping/repositoryName';
import { useSlurmUser } from '../session/useSlurmUser';
import { PageHeading } from '../ui/PageHeading';
import { ProblemBanner } from '../ui/ProblemBanner';
import table from '../ui/Table.module.css';
import { hours, isMonth, monthName, monthOf, total } from './month';
import styles from './UsagePage.module.css';
import { useUsage } from './useUsage';

/** What a month's Slurm jobs used, by repository and Slurm user. */
export function UsagePage() {
  const user = useSlurmUser();
  const { month: chosen } = useSearch({ from: '/usage' });
  const navigate = useNavigate();
  const thisMonth = monthOf(Date.now());
  const month = chosen ?? thisMonth;
  const title = user === undefined ? 'Usage' : `Usage for ${user}`;
  return (
    <>
      <div className={styles.head}>
        <PageHeading title={`${title}, ${monthName(month)}`}>{title}</PageHeading>
        <FormControl>
          <FormControl.Label>Month</FormControl.Label>
          <TextInput
            // Browsers without month fields show a text field with this pattern.
            type="month"
            pattern="\d{4}-\d{2}"
            max={thisMonth}
            defaultValue={month}
            onChange={({ target }) => {
              if (isMonth(target.value)) {
                void navigate({
                  to: '/usage',
                  search: (before) => ({ ...before, month: target.value }),
                });
              }
            }}
          />
        </FormControl>
      </div>
      <Sums key={`${month} ${user ?? ''}`} month={month} user={user} />
    </>
  );
}

interface Props {
  readonly month: string;
  readonly user: string | undefined;
}

function Sums({ month, user }: Props) {
  const usage = useUsage({ month, user });
  return (
    <>
      {usage.isError && (
        <ProblemBanner
          title="Could not load usage"
          error={usage.error}
          onRetry={() => void usage.refetch()}
        />
      )}
      {usage.isPending && (
        <div role="status" aria-label="Loading usage">
          <SkeletonBox height="12rem" />
        </div>
      )}
      {usage.data?.sums.length === 0 && (
        <Blankslate border>
          <Blankslate.Visual>
            <GraphIcon size="medium" />
          </Blankslate.Visual>
          <Blankslate.Heading>No usage in {monthName(month)}</Blankslate.Heading>
          <Blankslate.Description>
            Slurm jobs appear here some time after they end, if the cluster has accounting.
          </Blankslate.Description>
        </Blankslate>
      )}
      {usage.data !== undefined && usage.data.sums.length > 0 && <Table sums={usage.data.sums} />}
    </>
  );
}

function Table({ sums }: { readonly sums: readonly UsageSum[] }) {
  return (
    <>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to take the focus */}
      <section className={table.box} aria-label="Usage" tabIndex={0}>
        <table className={`${table.table} ${styles.sums}`}>
          <thead>
            <tr>
              <th scope="col">Repository</th>
              <th scope="col">Slurm user</th>
              <th scope="col">Builds</th>
              <th scope="col">Slurm jobs</th>
              <th scope="col">Elapsed hours</th>
              <th scope="col">CPU hours</th>
              <th scope="col">CPU hours used</th>
              <th scope="col">GPU hours</th>
            </tr>
          </thead>
          <tbody>
            {sums.map((sum) => (
              <tr key={`${sum.repositoryUrl} ${sum.slurmUser}`}>
                <th scope="row">
                  <Link href={sum.repositoryUrl} muted>
                    {fullNameOf(sum.repositoryUrl)}
                  </Link>
                </th>
                <td>{sum.slurmUser}</td>
                <Numbers sum={sum} />
              </tr>
            ))}
          </tbody>
          {sums.length > 1 && (
            <tfoot>
              <tr>
                <th scope="row" colSpan={2}>
                  Total
                </th>
                <Numbers sum={total(sums)} />
              </tr>
            </tfoot>
          )}
        </table>
      </section>
      <p className={styles.note}>
        Slurm jobs that ended in this month (UTC), from Slurm’s accounting. CPU and GPU hours count
        what was allocated, whether it was used or not.
      </p>
    </>
  );
}

function Numbers({ sum }: { readonly sum: Omit<UsageSum, 'repositoryUrl' | 'slurmUser'> }) {
  return (
    <>
      <td>{sum.builds}</td>
      <td>{sum.launches}</td>
      <td>{hours(sum.elapsedS)}</td>
      <td>{hours(sum.cpuAllocatedS)}</td>
      <td>{hours(sum.cpuUsedS)}</td>
      <td>{hours(sum.gpuAllocatedS)}</td>
    </>
  );
}
