import { LockIcon } from '@primer/octicons-react';
import { Blankslate } from '@primer/react/experimental';
import type { ReactNode } from 'react';
import { useMe } from '../session/session';
import { PageLink } from '../ui/links';
import { PageHeading } from '../ui/PageHeading';

interface Props {
  readonly title: string;
  readonly children: ReactNode;
}

/** A page that the service refuses to anyone else. */
export function AdministratorsOnly({ title, children }: Props) {
  if (useMe().administrator) {
    return children;
  }
  return (
    <>
      <PageHeading title={title}>{title}</PageHeading>
      <Blankslate border>
        <Blankslate.Visual>
          <LockIcon size="medium" />
        </Blankslate.Visual>
        <Blankslate.Heading>Only administrators can view this page</Blankslate.Heading>
        <Blankslate.Description>
          The repositories that you requested are listed under{' '}
          <PageLink to="/mapping" inline>
            Repositories
          </PageLink>
          .
        </Blankslate.Description>
      </Blankslate>
    </>
  );
}
