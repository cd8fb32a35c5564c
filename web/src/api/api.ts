import createClient, { type Middleware } from 'openapi-fetch';
import { type Charge, chargeOf, isSet } from '../mapping/charge';
import { fullNameOf, keyOf } from '../mapping/repositoryName';
import { ApiError, problemOf, UnreachableError } from './problem';
import type { components, paths } from './schema';

/** One workflow job and how far we are with it. */
export type Build = components['schemas']['Build'];
/** A build with its timeline. */
export type BuildDetail = components['schemas']['BuildDetail'];
/** One thing that happened. */
export type TimelineEntry = components['schemas']['TimelineEntry'];

/** A repository of a Slurm user, mapped or waiting for an administrator. */
export type UserRepository = components['schemas']['UserRepository'];
/** An entry of a list to save: an address alone leaves as it is what is charged. */
export type ListEntry = components['schemas']['ListEntry'];
/** What was used in a month. */
type MonthlyUsage = components['schemas']['MonthlyUsage'];
/** What one Slurm user's account was used for by a repository. */
export type UsageSum = components['schemas']['UsageSum'];

/** A Slurm user's repositories as the service has them. */
export interface RepositoryList {
  readonly repositories: readonly string[];
  /** What they are charged to, by key (`keyOf`); none where nothing is set. */
  readonly charges: Readonly<Record<string, Charge>>;
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

/** What the cached answer about mapping requests is filed under. */
export const REQUESTS_KEY = ['mapping-requests'] as const;

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

  /** What a user has, then what they wait for. */
  async function userRepositories(
    username: string,
    signal?: AbortSignal,
  ): Promise<UserRepository[]> {
    const { data } = await client.GET('/api/users/{username}/repositories', {
      params: { path: { username } },
      signal: signal ?? null,
    });
    return expected(data);
  }

  return {
    async repositories(username: string, signal?: AbortSignal): Promise<RepositoryList> {
      const { data, response } = await client.GET('/repositories/{username}', {
        params: { path: { username } },
        signal: signal ?? null,
      });
      const repositories = expected(data);
      // Asked second: were what is charged older than the version, a save could undo what somebody else changed.
      const charges = chargesOf(await userRepositories(username, signal));
      return { repositories, charges, etag: etagOf(response) };
    },

    /** Replaces the whole list, unless it is no longer the one that `etag` stands for. */
    async replaceRepositories(
      username: string,
      entries: readonly ListEntry[],
      etag: string | null,
    ) {
      const { data, response } = await client.POST('/repositories/{username}', {
        params: { path: { username }, header: etag === null ? {} : { 'If-Match': etag } },
        body: [...entries],
      });
      return { repositories: expected(data), etag: etagOf(response) };
    },

    /** What users of all clusters wait for, the oldest first. */
    async mappingRequests(signal?: AbortSignal): Promise<UserRepository[]> {
      const { data } = await client.GET('/api/mapping-requests', { signal: signal ?? null });
      return expected(data);
    },

    /** Maps what a user asks for, charged as they ask; only if it still waits. */
    async grant({ user, url }: UserRepository): Promise<UserRepository> {
      const { data } = await client.POST('/api/users/{username}/repositories', {
        params: { path: { username: user }, query: { waiting: true } },
        body: { repository: url },
      });
      return expected(data);
    },

    /** Removes what a user asks for; only if it still waits. */
    async refuse({ user, url }: UserRepository): Promise<void> {
      const [owner = '', name = ''] = fullNameOf(url).split('/');
      await client.DELETE('/api/users/{username}/repositories/{owner}/{name}', {
        params: { path: { username: user, owner, name }, query: { waiting: true } },
      });
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

function chargesOf(repositories: readonly UserRepository[]): Record<string, Charge> {
  return Object.fromEntries(
    repositories
      .filter((each) => each.state === 'mapped' && isSet(chargeOf(each)))
      .map((each) => [keyOf(each.url), chargeOf(each)]),
  );
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
