import { TelescopeIcon } from '@primer/octicons-react';
import { Blankslate } from '@primer/react/experimental';
import { PageLink } from '../ui/links';

/** Shown for an address without a page or build. */
export function NotFound({ what }: { readonly what: 'page' | 'build' }) {
  const title = what === 'build' ? 'Build not found' : 'Page not found';
  return (
    <Blankslate border>
      <title>{`${title} · gha-slurm`}</title>
      <Blankslate.Visual>
        <TelescopeIcon size="medium" />
      </Blankslate.Visual>
      <Blankslate.Heading as="h1">{title}</Blankslate.Heading>
      <Blankslate.Description>
        {what === 'build'
          ? 'GitHub may not have reported this workflow job, or it was removed with its repository. '
          : 'Check the address for typos. '}
        <PageLink to="/" inline>
          View all builds
        </PageLink>
      </Blankslate.Description>
    </Blankslate>
  );
}
