import type { Build, BuildDetail, TimelineEntry, UsageSum } from '../src/api/api';
import type { Problem, ProblemPart } from '../src/api/problem';
import { keyOf, parseRepository } from '../src/mapping/repositoryName';

interface List {
  version: number;
  repositories: string[];
}

/**
 * A small repo-mapping that remembers: it answers what the real one does, from its own state, to unit tests (through
 * msw) and to a browser (through Playwright). Tests change the state and look at the page.
 */
export class FakeApi {
  token = 'open-sesame';
  readonly lists = new Map<string, List>();
  /** Repositories (`owner/name`) the App is not installed on. */
  readonly notInstalled = new Set<string>();
  readonly details = new Map<number, BuildDetail>();
  /** What was used, by month. */
  private readonly usage = new Map<string, UsageSum[]>();
  /** Every request that came, as `METHOD path`. */
  readonly requests: string[] = [];
  /** Answers the next requests instead; one for each. A `TypeError` is a broken connection. */
  readonly next: (Response | TypeError)[] = [];
  /** Answers everything, while set: the service is in trouble. */
  trouble: (() => Response) | undefined;

  map(user: string, ...names: string[]): void {
    const version = (this.lists.get(user)?.version ?? 0) + 1;
    this.lists.set(user, { version, repositories: names.map((n) => `https://github.com/${n}`) });
  }

  add(build: Partial<Build> & { workflowJobId: number }, timeline: TimelineEntry[] = []): Build {
    const whole: Build = {
      repositoryUrl: 'https://github.com/octo/simulation',
      name: 'test',
      labels: ['self-hosted', 'slurm'],
      state: 'queued',
      verdict: 'ours',
      queuedAt: new Date().toISOString(),
      updatedAt: new Date().toISOString(),
      ...build,
    };
    this.details.set(whole.workflowJobId, { build: whole, timeline });
    return whole;
  }

  used(month: string, sums: UsageSum[]): void {
    this.usage.set(month, sums);
  }

  async handle(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    this.requests.push(`${request.method} ${pathname}`);
    const queued = this.next.shift();
    if (queued instanceof TypeError) {
      return Response.error();
    }
    if (queued !== undefined || this.trouble !== undefined) {
      return queued ?? (this.trouble?.() as Response);
    }
    if (request.headers.get('Authorization') !== `Bearer ${this.token}`) {
      return problem(401, 'unauthorized', 'A bearer token is needed', {
        detail: 'This token is not one of ours.',
      });
    }
    const user = /^\/repositories\/([^/]+)$/.exec(pathname)?.[1];
    if (user !== undefined) {
      return request.method === 'POST'
        ? this.replace(decodeURIComponent(user), request)
        : this.answerList(decodeURIComponent(user));
    }
    if (pathname === '/api/builds') {
      return this.list(searchParams);
    }
    if (pathname === '/api/usage') {
      return this.answerUsage(searchParams);
    }
    const id = /^\/api\/builds\/(\d+)$/.exec(pathname)?.[1];
    const detail = id === undefined ? undefined : this.details.get(Number(id));
    return detail === undefined
      ? problem(404, 'not_found', 'Nothing is here')
      : Response.json(detail);
  }

  private list(parameters: URLSearchParams): Response {
    const user = parameters.get('user');
    const builds = [...this.details.values()]
      .map(({ build }) => build)
      .filter((build) => user === null || build.slurmUser === user)
      .sort((a, b) => Date.parse(b.updatedAt) - Date.parse(a.updatedAt));
    return Response.json(builds.slice(0, Number(parameters.get('limit') ?? 50)));
  }

  private answerUsage(parameters: URLSearchParams): Response {
    const month = parameters.get('month') ?? '';
    const user = parameters.get('user');
    const sums = (this.usage.get(month) ?? []).filter(
      (sum) => user === null || sum.slurmUser === user,
    );
    return Response.json({ month, sums });
  }

  private answerList(user: string): Response {
    const { version, repositories } = this.lists.get(user) ?? { version: 0, repositories: [] };
    return Response.json(repositories, { headers: { ETag: `"${version}"` } });
  }

  private async replace(user: string, request: Request): Promise<Response> {
    const current = this.lists.get(user) ?? { version: 0, repositories: [] };
    const match = request.headers.get('If-Match');
    if (match !== null && match !== `"${current.version}"`) {
      return problem(412, 'mapping_changed', 'The list changed meanwhile', {
        detail: 'Load it again.',
      });
    }
    const entries = (await request.json()) as string[];
    const wrong = entries.flatMap((entry, index) => this.refuse(entry, index));
    if (wrong.length > 0) {
      return problem(422, 'repositories_refused', 'Some repositories are refused', {
        errors: wrong,
      });
    }
    const taken = entries.flatMap((entry, index): ProblemPart[] =>
      this.belongsToAnother(entry, user)
        ? [
            {
              index,
              value: entry,
              code: 'repository_mapped_elsewhere',
              detail: `${entry} is mapped to another Slurm user.`,
            },
          ]
        : [],
    );
    if (taken.length > 0) {
      return problem(
        409,
        'repository_mapped_elsewhere',
        'A repository is mapped to another Slurm user',
        {
          errors: taken,
        },
      );
    }
    const unique = new Map(entries.map((entry) => [keyOf(entry), entry]));
    const names = [...unique.values()].map((entry) =>
      entry.startsWith('https://') ? entry : `https://github.com/${entry}`,
    );
    this.lists.set(user, { version: current.version + 1, repositories: names });
    return this.answerList(user);
  }

  private refuse(entry: string, index: number): ProblemPart[] {
    const parsed = parseRepository(entry);
    if (!parsed.ok || (entry.includes('://') && !entry.startsWith('https://github.com/'))) {
      return [
        { index, value: entry, code: 'repository_invalid', detail: 'Not a repository at GitHub.' },
      ];
    }
    return this.notInstalled.has(keyOf(entry))
      ? [
          {
            index,
            value: entry,
            code: 'repository_not_visible',
            detail: 'It does not exist, or the GitHub App is not installed on it.',
            link: 'https://github.com/apps/gha-slurm/installations/new',
          },
        ]
      : [];
  }

  private belongsToAnother(entry: string, user: string): boolean {
    return [...this.lists].some(
      ([other, { repositories }]) =>
        other !== user && repositories.some((each) => keyOf(each) === keyOf(entry)),
    );
  }
}

export function problem(
  status: number,
  code: string,
  title: string,
  more: Partial<Problem> = {},
): Response {
  const body: Problem = { type: `urn:gha-slurm:problem:${code}`, title, status, code, ...more };
  return Response.json(body, { status, headers: { 'Content-Type': 'application/problem+json' } });
}
