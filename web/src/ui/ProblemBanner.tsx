import { Banner, Button } from '@primer/react';
import { explanationOf } from '../api/problem';

interface Props {
  /** What failed: `Could not load the builds`. */
  readonly title: string;
  readonly error: Error;
  readonly onRetry?: () => void;
}

/** Shows what failed, with the API's explanation. */
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
