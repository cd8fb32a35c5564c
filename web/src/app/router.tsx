import {
  createRootRoute,
  createRoute,
  createRouter,
  type RouterHistory,
  retainSearchParams,
} from '@tanstack/react-router';
import { BuildPage } from '../builds/BuildPage';
import { BuildsPage } from '../builds/BuildsPage';
import { MappingPage } from '../mapping/MappingPage';
import { slurmUserProblem } from '../mapping/slurmUser';
import { PeoplePage } from '../people/PeoplePage';
import { RequestsPage } from '../requests/RequestsPage';
import { isMonth } from '../usage/month';
import { UsagePage } from '../usage/UsagePage';
import { AdministratorsOnly } from './AdministratorsOnly';
import { Layout } from './Layout';
import { NotFound } from './NotFound';

/** The search parameters of every address. */
interface Search {
  /** The selected Slurm user. */
  user?: string;
}

const root = createRootRoute({
  validateSearch: ({ user }: Record<string, unknown>): Search =>
    typeof user === 'string' && slurmUserProblem(user) === undefined ? { user } : {},
  search: { middlewares: [retainSearchParams(['user'])] },
  component: Layout,
  notFoundComponent: () => <NotFound what="page" />,
});

const builds = createRoute({
  getParentRoute: () => root,
  path: '/',
  validateSearch: ({ show }: Record<string, unknown>): { show?: 'everyone' } =>
    show === 'everyone' ? { show } : {},
  component: BuildsPage,
});

const build = createRoute({
  getParentRoute: () => root,
  path: '/builds/$workflowJobId',
  component: BuildPage,
});

const mapping = createRoute({
  getParentRoute: () => root,
  path: '/mapping',
  validateSearch: ({ add }: Record<string, unknown>): { add?: string } =>
    typeof add === 'string' ? { add } : {},
  component: MappingPage,
});

const requests = createRoute({
  getParentRoute: () => root,
  path: '/requests',
  component: () => (
    <AdministratorsOnly title="Requests">
      <RequestsPage />
    </AdministratorsOnly>
  ),
});

const people = createRoute({
  getParentRoute: () => root,
  path: '/people',
  component: () => (
    <AdministratorsOnly title="People">
      <PeoplePage />
    </AdministratorsOnly>
  ),
});

const usage = createRoute({
  getParentRoute: () => root,
  path: '/usage',
  validateSearch: ({ month }: Record<string, unknown>): { month?: string } =>
    typeof month === 'string' && isMonth(month) ? { month } : {},
  component: UsagePage,
});

const routeTree = root.addChildren([builds, build, mapping, requests, people, usage]);

/** The routes of the page. Tests pass their own history. */
export function createPageRouter(history?: RouterHistory) {
  return createRouter({
    routeTree,
    scrollRestoration: true,
    ...(history === undefined ? {} : { history }),
  });
}

declare module '@tanstack/react-router' {
  interface Register {
    router: ReturnType<typeof createPageRouter>;
  }
}
