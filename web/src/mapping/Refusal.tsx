import { Link } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import type { ProblemPart } from '../api/problem';

/** Why a repository was refused, with a link to the place to fix it. */
export function Refusal({ part: { detail, link } }: { readonly part: ProblemPart }) {
  return (
    <InlineMessage variant="critical">
      <span>
        {detail}{' '}
        {link != null && (
          <Link href={link} inline target="_blank" rel="noreferrer">
            {link.includes('/installations') || link.includes('/apps/')
              ? 'Install the GitHub App'
              : 'View on GitHub'}
          </Link>
        )}
      </span>
    </InlineMessage>
  );
}
