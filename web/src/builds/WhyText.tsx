import type { Build } from '../api/api';
import { LocalTime } from '../ui/When';

/** Why a build is where it is, in Slurm's word too, and when it is expected to go on. */
export function WhyText({ status }: { readonly status: Build['status'] }) {
  const { stage, why, slurmReason, expectedAt } = status;
  return (
    <>
      {why}
      {slurmReason != null && ` Slurm’s reason: ${slurmReason}.`}
      {expectedAt != null && (
        <>
          {stage === 'pending' ? ' Expected to start: ' : ' Next attempt: '}
          <LocalTime at={expectedAt} />.
        </>
      )}
    </>
  );
}
