import {
  AlertFillIcon,
  CheckCircleFillIcon,
  CircleSlashIcon,
  ClockIcon,
  DotFillIcon,
  type Icon,
  LinkIcon,
  NoEntryIcon,
  SkipIcon,
  XCircleFillIcon,
} from '@primer/octicons-react';
import type { Phase } from './build';
import styles from './StateIcon.module.css';

const ICONS: Record<Exclude<Phase, 'running'>, Icon> = {
  waiting: ClockIcon,
  queued: DotFillIcon,
  stuck: AlertFillIcon,
  unmapped: LinkIcon,
  refused: NoEntryIcon,
  ignored: SkipIcon,
  succeeded: CheckCircleFillIcon,
  failed: XCircleFillIcon,
  cancelled: CircleSlashIcon,
  ended: CheckCircleFillIcon,
};

/** The icon for a build's state. The label beside it says the same in words. */
export function StateIcon({ phase, size = 16 }: { readonly phase: Phase; readonly size?: number }) {
  if (phase === 'running') {
    return (
      <svg
        className={styles.icon}
        data-phase={phase}
        width={size}
        height={size}
        viewBox="0 0 16 16"
        fill="none"
        aria-hidden="true"
      >
        <circle cx="8" cy="8" r="6.5" stroke="currentColor" strokeOpacity="0.35" strokeWidth="2" />
        <path
          className={styles.turning}
          d="M8 1.5a6.5 6.5 0 0 1 6.5 6.5"
          stroke="currentColor"
          strokeWidth="2"
          strokeLinecap="round"
        />
        <circle cx="8" cy="8" r="3" fill="currentColor" />
      </svg>
    );
  }
  const Shape = ICONS[phase];
  return (
    <span className={styles.icon} data-phase={phase}>
      <Shape size={size} />
    </span>
  );
}
