import {
  GraphIcon,
  InboxIcon,
  PeopleIcon,
  PersonIcon,
  PlayIcon,
  RepoIcon,
  ServerIcon,
  SignOutIcon,
} from '@primer/octicons-react';
import { Button, UnderlineNav, useConfirm } from '@primer/react';
import { useMutation } from '@tanstack/react-query';
import { Outlet, useLocation } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { useDrafts } from '../mapping/drafts';
import { useRequests } from '../requests/useRequests';
import { useMe, useSession } from '../session/session';
import { useSlurmUser } from '../session/useSlurmUser';
import { NavItem, PageLink } from '../ui/links';
import { ProblemBanner } from '../ui/ProblemBanner';
import styles from './Layout.module.css';
import { SlurmUserForm } from './SlurmUserForm';

/** The frame of every page: home link, Slurm user, who is signed in, sign-out and navigation. */
export function Layout() {
  const user = useSlurmUser();
  const { administrator } = useMe();
  const drafts = useDrafts();
  const session = useSession();
  const signOut = useMutation({ mutationFn: session.leave, onSuccess: drafts.discardAll });
  const confirm = useConfirm();
  const { pathname } = useLocation();
  const waiting = useRequests().data?.length;
  const unsaved = user !== undefined && drafts.of(user) !== undefined;

  useWarningBeforeLeaving(drafts.any);

  async function leave(everywhere: boolean) {
    if (signOut.isPending) {
      return;
    }
    const sure =
      !drafts.any ||
      (await confirm({
        title: 'Sign out and lose your changes?',
        content: 'You have unsaved changes to a list of repositories.',
        confirmButtonContent: 'Sign out',
        confirmButtonType: 'danger',
      }));
    if (sure) {
      signOut.mutate(everywhere);
    }
  }

  return (
    <div className={styles.page}>
      <a href="#content" className={styles.skip}>
        Skip to content
      </a>
      <header className={styles.header}>
        <div className={styles.bar}>
          <PageLink to="/" className={styles.brand}>
            <ServerIcon size={24} />
            gha-slurm
          </PageLink>
          <div className={styles.user}>
            {administrator ? (
              <SlurmUserForm key={user ?? ''} user={user} />
            ) : (
              <span>
                Slurm user <span className={styles.slurmUser}>{user}</span>
              </span>
            )}
          </div>
          <div className={styles.account}>
            <Account onSignOutEverywhere={() => void leave(true)} />
            <Button
              variant="invisible"
              leadingVisual={SignOutIcon}
              aria-disabled={signOut.isPending}
              onClick={() => void leave(false)}
            >
              Sign out
            </Button>
          </div>
        </div>
        <div className={styles.nav}>
          <UnderlineNav aria-label="Pages" hideIconsBreakpoint="small">
            <NavItem
              to="/"
              aria-current={pathname.startsWith('/builds/') ? 'page' : undefined}
              activeOptions={{ exact: true, includeSearch: false }}
              leadingVisual={<PlayIcon />}
            >
              Builds
            </NavItem>
            <NavItem to="/mapping" leadingVisual={<RepoIcon />}>
              Repositories
              {unsaved && <span className={styles.unsaved}> (unsaved)</span>}
            </NavItem>
            {administrator && (
              <NavItem to="/requests" leadingVisual={<InboxIcon />} counter={waiting || undefined}>
                Requests
              </NavItem>
            )}
            <NavItem
              to="/usage"
              activeOptions={{ includeSearch: false }}
              leadingVisual={<GraphIcon />}
            >
              Usage
            </NavItem>
            {administrator && (
              <NavItem to="/people" leadingVisual={<PeopleIcon />}>
                People
              </NavItem>
            )}
          </UnderlineNav>
        </div>
      </header>
      <main id="content" className={styles.content}>
        {signOut.isError && (
          <ProblemBanner
            title="Could not sign out"
            error={signOut.error}
            onRetry={() => signOut.mutate(signOut.variables)}
          />
        )}
        <Outlet />
      </main>
    </div>
  );
}

/** Who is signed in, with what they can do about all of their sessions. */
function Account({ onSignOutEverywhere }: { readonly onSignOutEverywhere: () => void }) {
  const { login } = useMe();
  const [isOpen, setIsOpen] = useState(false);
  if (login == null) {
    return <span className={styles.token}>Administrator’s token</span>;
  }
  return (
    <>
      <Button
        variant="invisible"
        leadingVisual={PersonIcon}
        aria-label={`Signed in as ${login}`}
        aria-expanded={isOpen}
        onClick={() => setIsOpen(!isOpen)}
      >
        {login}
      </Button>
      {isOpen && <Button onClick={onSignOutEverywhere}>Sign out everywhere</Button>}
    </>
  );
}

/** Makes the browser ask before the tab is closed or reloaded with unsaved changes. */
function useWarningBeforeLeaving(unsaved: boolean) {
  useEffect(() => {
    if (!unsaved) {
      return;
    }
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', warn);
    return () => window.removeEventListener('beforeunload', warn);
  }, [unsaved]);
}
