import {
  GraphIcon,
  InboxIcon,
  PlayIcon,
  RepoIcon,
  ServerIcon,
  SignOutIcon,
} from '@primer/octicons-react';
import { Button, UnderlineNav, useConfirm } from '@primer/react';
import { Outlet, useLocation, useSearch } from '@tanstack/react-router';
import { useEffect } from 'react';
import { useDrafts } from '../mapping/drafts';
import { useRequests } from '../requests/useRequests';
import { useSession } from '../session/session';
import { NavItem, PageLink } from '../ui/links';
import styles from './Layout.module.css';
import { SlurmUserForm } from './SlurmUserForm';

/** The frame of every page: home link, Slurm user, navigation and sign-out. */
export function Layout() {
  const { user } = useSearch({ from: '__root__' });
  const drafts = useDrafts();
  const { signOut } = useSession();
  const confirm = useConfirm();
  const { pathname } = useLocation();
  const waiting = useRequests().data?.length;
  const unsaved = user !== undefined && drafts.of(user) !== undefined;

  useWarningBeforeLeaving(drafts.any);

  async function leave() {
    const sure =
      !drafts.any ||
      (await confirm({
        title: 'Sign out and lose your changes?',
        content: 'You have unsaved changes to a list of repositories.',
        confirmButtonContent: 'Sign out',
        confirmButtonType: 'danger',
      }));
    if (sure) {
      drafts.discardAll();
      signOut();
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
            <SlurmUserForm key={user ?? ''} user={user} />
          </div>
          <Button
            variant="invisible"
            leadingVisual={SignOutIcon}
            className={styles.signOut}
            onClick={leave}
          >
            Sign out
          </Button>
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
            <NavItem to="/requests" leadingVisual={<InboxIcon />} counter={waiting || undefined}>
              Requests
            </NavItem>
            <NavItem
              to="/usage"
              activeOptions={{ includeSearch: false }}
              leadingVisual={<GraphIcon />}
            >
              Usage
            </NavItem>
          </UnderlineNav>
        </div>
      </header>
      <main id="content" className={styles.content}>
        <Outlet />
      </main>
    </div>
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
