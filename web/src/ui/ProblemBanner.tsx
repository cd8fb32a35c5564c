import { Banner, Button } from '@primer/react';
import { explanationOf } from '../api/problem';

interface Props {
  /** What could not be done: `The builds could not be loaded`. */
  readonly title: string;
  readonly error: Error;
  readonly onRetry?: () => void;
}

/** Says what went wrong in the service's own words. */
export function ProblemBanner({ title, error, onRetry }: Props) {
  return (
    <Banner
      variant="critical"
      title={title}
      description={explanationOf(error)}
      primaryAction={onRetry && <Button onClick={onRetry}>Try again</Button>}
    />
  );
}
