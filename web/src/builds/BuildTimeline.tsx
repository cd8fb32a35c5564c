import { ChevronRightIcon } from '@primer/octicons-react';
import { Details, Text, Timeline, useDetails } from '@primer/react';
import { FeatureFlags } from '@primer/react/experimental';
import type { TimelineEntry } from '../api/api';
import { duration } from '../ui/time';
import { Ago, LocalTime } from '../ui/When';
import styles from './BuildTimeline.module.css';
import { type Look, lookOf, type Mark } from './kinds';
import { plainText } from './timeline';

const BADGES: Record<Mark, 'success' | 'danger' | 'attention' | 'accent' | undefined> = {
  good: 'success',
  bad: 'danger',
  attention: 'attention',
  active: 'accent',
  neutral: undefined,
};

interface Props {
  readonly timeline: readonly TimelineEntry[];
  /** GitHub's conclusion of the build. */
  readonly conclusion: string | null | undefined;
}

/** The events of a build, oldest first. */
export function BuildTimeline({ timeline, conclusion }: Props) {
  if (timeline.length === 0) {
    return (
      <Text as="p" className={styles.nothing}>
        No events yet. New events appear here as they happen.
      </Text>
    );
  }
  return (
    // A list for screen readers too; Primer keeps that behind a flag until its next major version.
    <FeatureFlags flags={{ primer_react_timeline_list_semantics: true }}>
      <Timeline aria-label="Timeline" clipSidebar>
        {timeline.map((entry, index) => (
          <Entry
            // Not its position: an entry that is recorded late moves those that happened after it.
            key={[entry.recordedAt, entry.launchId, entry.kind, entry.detail].join(' ')}
            entry={entry}
            before={timeline[index - 1]}
            look={lookOf(entry, conclusion)}
          />
        ))}
      </Timeline>
    </FeatureFlags>
  );
}

interface EntryProps {
  readonly entry: TimelineEntry;
  readonly before: TimelineEntry | undefined;
  readonly look: Look;
}

function Entry({ entry, before, look: { name, icon: Shape, mark } }: EntryProps) {
  const { happenedAt, recordedAt } = entry;
  const passed = before === undefined ? 0 : Date.parse(happenedAt) - Date.parse(before.happenedAt);
  return (
    <Timeline.Item className={styles.item}>
      <Timeline.Badge variant={BADGES[mark]}>
        <Shape />
      </Timeline.Badge>
      <Timeline.Body className={styles.body}>
        <div className={styles.line}>
          <span className={styles.kind}>{name}</span>
          <span className={styles.time}>
            <LocalTime at={happenedAt} recordedAt={recordedAt} />
            <span>{passed >= 50 && `+${duration(passed)}`}</span>
            <span className={styles.ago}>
              <Ago at={happenedAt} recordedAt={recordedAt} />
            </span>
          </span>
        </div>
        <div className={styles.detail}>{sentence(entry.detail)}</div>
        {entry.logTail != null && entry.logTail !== '' && <LogTail log={entry.logTail} />}
      </Timeline.Body>
    </Timeline.Item>
  );
}

function LogTail({ log }: { readonly log: string }) {
  const { open, getDetailsProps } = useDetails({});
  return (
    <Details {...getDetailsProps()} className={styles.log}>
      <Details.Summary className={styles.summary}>
        <ChevronRightIcon />
        {open ? 'Hide' : 'Show'} the end of the job script’s log
      </Details.Summary>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reachable by keyboard. */}
      <section tabIndex={0} aria-label="End of the job script’s log">
        <pre>{plainText(log)}</pre>
      </section>
    </Details>
  );
}

/** Turns a detail from the API into a sentence. */
function sentence(detail: string): string {
  const text = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
