import createClient, { type Middleware } from 'openapi-fetch';
import { type Charge, chargeOf, isSet } from '../mapping/charge';
import { fullNameOf, keyOf } from '../mapping/repositoryName';
import { ApiError, problemOf, UnreachableError } from './problem';
import type { components, paths } from './schema';

/** One workflow job and its progress. */
export type Build = components['schemas']['Build'];
/** How far a build is, as people see it. */
export type BuildStage = components['schemas']['BuildStage'];
/** A build with its timeline. */
export type BuildDetail = components['schemas']['BuildDetail'];
/** An event of a build. */
export type TimelineEntry = components['schemas']['TimelineEntry'];
/** What kind of event it is. */
export type TimelineKind = components['schemas']['TimelineKind'];

/** A repository of a Slurm user, mapped or waiting for an administrator. */
export type UserRepository = components['schemas']['UserRepository'];
/** An entry of a list to save. A plain address keeps the repository's account and QOS. */
export type ListEntry = components['schemas']['ListEntry'];
/** The usage of a month. */
type MonthlyUsage = components['schemas']['MonthlyUsage'];
/** What a repository used of one Slurm user's account. */
export type UsageSum = components['schemas']['UsageSum'];

/** Who is signed in. A person who is no administrator sees what belongs to their Slurm user only. */
export type Me = components['schemas']['Me'];
/** How people can sign in. */
export type SignInWays = components['schemas']['SignInWays'];
/** Somebody who has signed in with GitHub. */
export type Person = components['schemas']['Person'];

/** A Slurm user's saved repositories. */
export interface RepositoryList {
  readonly repositories: readonly string[];
  /** Account and QOS by key (`keyOf`), for repositories that have one set. */
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

/** The query key of all cached builds. */
export const BUILDS_KEY = ['builds'] as const;

/** The query key of the cached mapping requests. */
export const REQUESTS_KEY = ['mapping-requests'] as const;

export type Api = ReturnType<typeof createApi>;

/**
 * The client of repo-mapping's API. Its calls throw `ApiError` or `UnreachableError`. Without a token, the browser's
 * session cookie says who calls.
 */
export function createApi(token?: string) {
  const client = createClient<paths>({
    baseUrl: window.location.origin,
    cache: 'no-store',
    // Looked up at each call, so that tests can replace it.
    fetch: (request) => globalThis.fetch(request),
  });
  if (token !== undefined) {
    client.use(bearer(token));
  }
  client.use(errors);

  /** A user's mapped repositories, then those that wait for an administrator. */
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
    /** Needs no credential. */
    async signInWays(signal?: AbortSignal): Promise<SignInWays> {
      const { data } = await client.GET('/api/sign-in', { signal: signal ?? null });
      return expected(data);
    },

    async me(signal?: AbortSignal): Promise<Me> {
      const { data } = await client.GET('/api/me', { signal: signal ?? null });
      return expected(data);
    },

    /** Ends this session, or all sessions of the person. */
    async signOut(everywhere: boolean): Promise<void> {
      await client.POST('/api/sign-out', { params: { query: everywhere ? { everywhere } : {} } });
    },

    userRepositories,

    async repositories(username: string, signal?: AbortSignal): Promise<RepositoryList> {
      const { data, response } = await client.GET('/repositories/{username}', {
        params: { path: { username } },
        signal: signal ?? null,
      });
      const repositories = expected(data);
      // Fetched second: with charges older than the version, a save could undo another person's change.
      const charges = chargesOf(await userRepositories(username, signal));
      return { repositories, charges, etag: etagOf(response) };
    },

    /** Replaces the whole list, unless the saved list is newer than `etag`. */
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

    /** The pending requests of all users, oldest first. */
    async mappingRequests(signal?: AbortSignal): Promise<UserRepository[]> {
      const { data } = await client.GET('/api/mapping-requests', { signal: signal ?? null });
      return expected(data);
    },

    /** Grants a request, with the account and QOS it names, if it is still pending and unchanged. */
    async grant(request: UserRepository): Promise<UserRepository> {
      const { id, user, url } = request;
      const { data } = await client.POST('/api/users/{username}/repositories', {
        params: { path: { username: user }, query: { waiting: true }, header: ifSeen(request) },
        body: { repository: url, id },
      });
      return expected(data);
    },

    /** Refuses or withdraws a request, if it is still pending and unchanged. */
    async refuse(request: UserRepository): Promise<void> {
      const { user, url } = request;
      const [owner = '', name = ''] = fullNameOf(url).split('/');
      await client.DELETE('/api/users/{username}/repositories/{owner}/{name}', {
        params: {
          path: { username: user, owner, name },
          query: { waiting: true },
          header: ifSeen(request),
        },
      });
    },

    /** Maps a repository to a user. A person's own additions wait for an administrator. */
    async addRepository(username: string, repository: string): Promise<UserRepository> {
      const { data } = await client.POST('/api/users/{username}/repositories', {
        params: { path: { username } },
        body: { repository },
      });
      return expected(data);
    },

    /** Removes a repository from a user's list. */
    async removeRepository(username: string, repository: string): Promise<void> {
      const [owner = '', name = ''] = fullNameOf(repository).split('/');
      await client.DELETE('/api/users/{username}/repositories/{owner}/{name}', {
        params: { path: { username, owner, name } },
      });
    },

    /** Everyone who has signed in with GitHub. */
    async people(signal?: AbortSignal): Promise<Person[]> {
      const { data } = await client.GET('/api/people', { signal: signal ?? null });
      return expected(data);
    },

    async linkPerson(githubId: number, slurmUser: string, cluster: string | null): Promise<Person> {
      const { data } = await client.PUT('/api/people/{github_id}/slurm-user', {
        params: { path: { github_id: githubId } },
        body: { slurmUser, cluster },
      });
      return expected(data);
    },

    async unlinkPerson(githubId: number): Promise<Person> {
      const { data } = await client.DELETE('/api/people/{github_id}/slurm-user', {
        params: { path: { github_id: githubId } },
      });
      return expected(data);
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

/** The version of the request on the page. */
function ifSeen({ version }: UserRepository) {
  return version == null ? {} : { 'If-Match': `"${version}"` };
}

/** Drops the weak mark that a compressing reverse proxy adds: `If-Match` never matches a weak version. */
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
    // The page itself aborted the request.
    if (error instanceof DOMException && error.name === 'AbortError') {
      return undefined;
    }
    return new UnreachableError(error);
  },
};

/** Fails on a success without a body, which the API never sends. */
function expected<T>(data: T | undefined): T {
  if (data === undefined) {
    throw new UnreachableError('empty response');
  }
  return data;
}
