import { TelescopeIcon } from '@primer/octicons-react';
import { Blankslate } from '@primer/react/experimental';
import { PageLink } from '../ui/links';

/** Nothing is at this address. */
export function NotFound({ what }: { readonly what: 'page' | 'build' }) {
  return (
    <Blankslate border>
      <title>{`No such ${what} · gha-slurm`}</title>
      <Blankslate.Visual>
        <TelescopeIcon size="medium" />
      </Blankslate.Visual>
      <Blankslate.Heading as="h1">{`There is no such ${what}`}</Blankslate.Heading>
      <Blankslate.Description>
        {what === 'build'
          ? 'GitHub may never have told us about this workflow job, or it was removed with its repository. '
          : 'The address may be mistyped. '}
        <PageLink to="/" inline>
          See all builds.
        </PageLink>
      </Blankslate.Description>
    </Blankslate>
  );
}
