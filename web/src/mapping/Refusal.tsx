import { Link } from '@primer/react';
import { InlineMessage } from '@primer/react/experimental';
import type { ProblemPart } from '../api/problem';

/** Why a repository was refused, and where that is mended. */
export function Refusal({ part: { detail, link } }: { readonly part: ProblemPart }) {
  return (
    <InlineMessage variant="critical">
      <span>
        {detail}{' '}
        {link != null && (
          <Link href={link} inline target="_blank" rel="noreferrer">
            {link.includes('/installations') || link.includes('/apps/')
              ? 'Install the GitHub App'
              : 'See at GitHub'}
          </Link>
        )}
      </span>
    </InlineMessage>
  );
}
