import createClient, { type Middleware } from 'openapi-fetch';
import { ApiError, problemOf, UnreachableError } from './problem';
import type { components, paths } from './schema';

/** One workflow job and how far we are with it. */
export type Build = components['schemas']['Build'];
/** A build with its timeline. */
export type BuildDetail = components['schemas']['BuildDetail'];
/** One thing that happened. */
export type TimelineEntry = components['schemas']['TimelineEntry'];

/** What was used in a month. */
type MonthlyUsage = components['schemas']['MonthlyUsage'];
/** What one Slurm user's allocation was used for by a repository. */
export type UsageSum = components['schemas']['UsageSum'];

/** A Slurm user's repositories as the service has them. */
export interface RepositoryList {
  readonly repositories: readonly string[];
  /** The version of the list, for `If-Match`. */
  readonly etag: string | null;
}

/** Which builds to list. */
export interface BuildFilter {
  readonly user?: string | undefined;
  readonly limit: number;
}

/** Which usage to sum up. */
export interface UsageFilter {
  /** `2026-11`. */
  readonly month: string;
  readonly user?: string | undefined;
}

/** What every cached answer about builds is filed under. */
export const BUILDS_KEY = ['builds'] as const;

export type Api = ReturnType<typeof createApi>;

/** Everything the page says to repo-mapping. Failures are thrown as `ApiError` or `UnreachableError`. */
export function createApi(token: string) {
  const client = createClient<paths>({
    baseUrl: window.location.origin,
    cache: 'no-store',
    // Looked up at each call, so that tests can put their own in its place.
    fetch: (request) => globalThis.fetch(request),
  });
  client.use(bearer(token), errors);

  return {
    async repositories(username: string, signal?: AbortSignal): Promise<RepositoryList> {
      const { data, response } = await client.GET('/repositories/{username}', {
        params: { path: { username } },
        signal: signal ?? null,
      });
      return { repositories: expected(data), etag: etagOf(response) };
    },

    /** Replaces the whole list, unless it is no longer the one that `etag` stands for. */
    async replaceRepositories(
      username: string,
      repositories: readonly string[],
      etag: string | null,
    ): Promise<RepositoryList> {
      const { data, response } = await client.POST('/repositories/{username}', {
        params: { path: { username }, header: etag === null ? {} : { 'If-Match': etag } },
        body: [...repositories],
      });
      return { repositories: expected(data), etag: etagOf(response) };
    },

    async builds({ user, limit }: BuildFilter, signal?: AbortSignal): Promise<Build[]> {
      const { data } = await client.GET('/api/builds', {
        params: { query: user === undefined ? { limit } : { user, limit } },
        signal: signal ?? null,
      });
      return expected(data);
    },

    async build(workflowJobId: number, signal?: AbortSignal): Promise<BuildDetail> {
      const { data } = await client.GET('/api/builds/{workflow_job_id}', {
        params: { path: { workflow_job_id: workflowJobId } },
        signal: signal ?? null,
      });
      return expected(data);
    },

    async usage({ month, user }: UsageFilter, signal?: AbortSignal): Promise<MonthlyUsage> {
      const { data } = await client.GET('/api/usage', {
        params: { query: user === undefined ? { month } : { month, user } },
        signal: signal ?? null,
      });
      return expected(data);
    },
  };
}

/** A reverse proxy that compresses marks the version as weak, which `If-Match` would never match. */
function etagOf(response: Response): string | null {
  return response.headers.get('ETag')?.replace(/^W\//, '') ?? null;
}

function bearer(token: string): Middleware {
  return {
    onRequest({ request }) {
      request.headers.set('Authorization', `Bearer ${token}`);
      return request;
    },
  };
}

const errors: Middleware = {
  async onResponse({ response }) {
    if (!response.ok) {
      throw new ApiError(await problemOf(response));
    }
    return undefined;
  },
  onError({ error }) {
    // An aborted request was given up by the page itself.
    if (error instanceof DOMException && error.name === 'AbortError') {
      return undefined;
    }
    return new UnreachableError(error);
  },
};

/** A success without a body is not what the contract says. */
function expected<T>(data: T | undefined): T {
  if (data === undefined) {
    throw new UnreachableError('an empty answer');
  }
  return data;
}
