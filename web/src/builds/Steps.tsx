import { VisuallyHidden } from '@primer/react';
import type { BuildDetail } from '../api/api';
import { duration } from '../ui/time';
import { Elapsed, LocalTime } from '../ui/When';
import styles from './Steps.module.css';
import { type Step, stepsOf } from './timeline';

const PROGRESS: Record<Step['progress'], string> = {
  done: 'done',
  current: 'current step',
  ahead: 'upcoming',
  skipped: 'skipped',
};

/** The progress of the build at a glance: the steps it has reached, and how long each took. */
export function Steps({ detail }: { readonly detail: BuildDetail }) {
  const steps = stepsOf(detail);
  return (
    <ol className={styles.steps} aria-label="Progress">
      {steps.map((step, index) => {
        const before = steps.slice(0, index).findLast(({ at }) => at !== undefined)?.at;
        return (
          <li key={step.name} data-progress={step.progress} className={styles.step}>
            <span className={styles.name}>{step.name}</span>
            <VisuallyHidden>, {PROGRESS[step.progress]}</VisuallyHidden>
            <span className={styles.time}>
              {step.at !== undefined && before === undefined && <LocalTime at={step.at} />}
              {step.at !== undefined &&
                before !== undefined &&
                `+${duration(Date.parse(step.at) - Date.parse(before))}`}
              {step.at === undefined && step.progress === 'current' && before !== undefined && (
                <>
                  for <Elapsed since={before} />
                </>
              )}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
