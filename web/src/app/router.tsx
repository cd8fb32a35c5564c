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
import { RequestsPage } from '../requests/RequestsPage';
import { Layout } from './Layout';
import { NotFound } from './NotFound';

/** What every address of the page carries. */
interface Search {
  /** The Slurm user one looks at. */
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
  component: RequestsPage,
});

const routeTree = root.addChildren([builds, build, mapping, requests]);

/** The addresses of the page. Tests give a history of their own. */
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
