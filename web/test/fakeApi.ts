import type {
  Build,
  BuildDetail,
  ListEntry,
  Me,
  Person,
  TimelineEntry,
  UsageSum,
  UserRepository,
} from '../src/api/api';
import type { Problem, ProblemPart } from '../src/api/problem';
import { type Charge, chargeOf } from '../src/mapping/charge';
import { fullNameOf, keyOf, parseRepository } from '../src/mapping/repositoryName';

interface List {
  version: number;
  repositories: string[];
  /** By key. */
  charges: Map<string, Charge>;
}

/** What the navigation and the sign-in ask for by themselves. */
const BY_ITSELF = ['/api/mapping-requests', '/api/me', '/api/sign-in'];

const EMPTY: List = { version: 0, repositories: [], charges: new Map() };

/**
 * A small repo-mapping that remembers: it answers what the real one does, from its own state, to unit tests (through
 * msw) and to a browser (through Playwright). Tests change the state and look at the page.
 */
export class FakeApi {
  token = 'open-sesame';
  /** Whether the site has set up sign-in with GitHub. */
  github = false;
  /** Whose session the browser has. */
  me: Me | undefined;
  people: Person[] = [];
  readonly lists = new Map<string, List>();
  /** Repositories (`owner/name`) the App is not installed on. */
  readonly notInstalled = new Set<string>();
  private asked = 0;
  /** What users ask for, oldest first. */
  requested: UserRepository[] = [];
  /** The last list that came to be saved, as it was written. */
  sent: ListEntry[] | undefined;
  readonly details = new Map<number, BuildDetail>();
  /** What was used, by month. */
  private readonly usage = new Map<string, UsageSum[]>();
  /** Every request that came, as `METHOD path`. */
  readonly requests: string[] = [];
  /**
   * Answers the next requests instead; one for each, but for the navigation's, which come by themselves. A `TypeError`
   * is a broken connection.
   */
  readonly next: (Response | TypeError)[] = [];
  /** Answers everything, while set: the service is in trouble. */
  trouble: (() => Response) | undefined;

  map(user: string, ...names: string[]): void {
    const { version, charges } = this.lists.get(user) ?? EMPTY;
    const repositories = names.map((n) => `https://github.com/${n}`);
    this.lists.set(user, { version: version + 1, repositories, charges });
  }

  /** Somebody charges a mapped repository to something else. */
  charge(user: string, name: string, charge: Charge): void {
    const list = this.lists.get(user) ?? EMPTY;
    const charges = new Map(list.charges).set(keyOf(name), charge);
    this.lists.set(user, { ...list, version: list.version + 1, charges });
  }

  /** Somebody has signed in with GitHub in this browser. */
  signIn(login: string, more: Partial<Me> = {}): void {
    this.github = true;
    this.me = { githubId: 583_231, login, administrator: false, ...more };
  }

  /** A user asks for a repository on a login node. */
  ask(user: string, name: string, more: Partial<UserRepository> = {}): void {
    this.asked += 1;
    this.requested.push({
      version: this.asked,
      user,
      state: 'waiting',
      id: this.requested.length + 1000,
      url: `https://github.com/${name}`,
      cluster: 'main',
      requestedAt: new Date().toISOString(),
      ...more,
    });
  }

  add(build: Partial<Build> & { workflowJobId: number }, timeline: TimelineEntry[] = []): Build {
    const whole: Build = {
      repositoryUrl: 'https://github.com/octo/simulation',
      name: 'test',
      labels: ['self-hosted', 'slurm'],
      state: 'queued',
      verdict: 'ours',
      status: { stage: 'planned' },
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
    const everywhere = searchParams.has('everywhere') ? '?everywhere=true' : '';
    this.requests.push(`${request.method} ${pathname}${everywhere}`);
    const queued = BY_ITSELF.includes(pathname) ? undefined : this.next.shift();
    if (queued instanceof TypeError) {
      return Response.error();
    }
    if (queued !== undefined || this.trouble !== undefined) {
      return queued ?? (this.trouble?.() as Response);
    }
    if (pathname === '/api/sign-in') {
      return Response.json({ github: this.github });
    }
    const me = this.caller(request);
    if (me === undefined) {
      return problem(401, 'unauthorized', 'A bearer token is needed', {
        detail: 'This token is not one of ours.',
      });
    }
    if (pathname === '/api/me') {
      return Response.json(me);
    }
    if (pathname === '/api/sign-out') {
      this.me = undefined;
      return new Response(null, { status: 204 });
    }
    const refusal = refuseCaller(me, request.method, pathname);
    if (refusal !== undefined) {
      return refusal;
    }
    if (pathname.startsWith('/api/people')) {
      return this.ofPeople(pathname.split('/')[3], request);
    }
    const user = /^\/repositories\/([^/]+)$/.exec(pathname)?.[1];
    if (user !== undefined) {
      return request.method === 'POST'
        ? this.replace(decodeURIComponent(user), request)
        : this.answerList(decodeURIComponent(user));
    }
    if (pathname === '/api/mapping-requests') {
      return Response.json(this.requested);
    }
    const [, of, name] = /^\/api\/users\/([^/]+)\/repositories(?:\/(.+))?$/.exec(pathname) ?? [];
    if (of !== undefined) {
      return this.ofUser(of, name, request, me.administrator);
    }
    if (pathname === '/api/builds') {
      return this.list(searchParams, me);
    }
    if (pathname === '/api/usage') {
      return this.answerUsage(searchParams, me);
    }
    const id = /^\/api\/builds\/(\d+)$/.exec(pathname)?.[1];
    const detail = id === undefined ? undefined : this.details.get(Number(id));
    return detail === undefined
      ? problem(404, 'not_found', 'Nothing is here')
      : Response.json(detail);
  }

  private caller(request: Request): Me | undefined {
    const given = request.headers.get('Authorization');
    if (given === null) {
      return this.me;
    }
    return given === `Bearer ${this.token}` ? { administrator: true } : undefined;
  }

  private async ofPeople(id: string | undefined, request: Request): Promise<Response> {
    if (id === undefined) {
      return Response.json(this.people);
    }
    const person = this.people.find((each) => each.githubId === Number(id));
    if (person === undefined) {
      return problem(404, 'not_found', 'Nothing is here');
    }
    let link: Partial<Person> = { slurmUser: null, cluster: null, linkedAt: null };
    if (request.method === 'PUT') {
      const wanted = (await request.json()) as { slurmUser: string; cluster: string | null };
      if (wanted.cluster !== null && wanted.cluster !== 'main') {
        return problem(422, 'cluster_unknown', 'There is no such cluster');
      }
      link = {
        ...wanted,
        linkedBy: this.me?.login ?? 'token',
        linkedAt: new Date().toISOString(),
      };
    }
    const saved = { ...person, ...link };
    this.people = this.people.map((each) => (each === person ? saved : each));
    return Response.json(saved);
  }

  private list(parameters: URLSearchParams, me: Me): Response {
    const user = me.administrator ? parameters.get('user') : (me.slurmUser ?? null);
    const builds = [...this.details.values()]
      .map(({ build }) => build)
      .filter((build) => user === null || build.slurmUser === user)
      .sort((a, b) => Date.parse(b.updatedAt) - Date.parse(a.updatedAt));
    return Response.json(builds.slice(0, Number(parameters.get('limit') ?? 50)));
  }

  private answerUsage(parameters: URLSearchParams, me: Me): Response {
    const month = parameters.get('month') ?? '';
    const user = me.administrator ? parameters.get('user') : (me.slurmUser ?? null);
    const sums = (this.usage.get(month) ?? []).filter(
      (sum) => user === null || sum.slurmUser === user,
    );
    return Response.json({ month, sums });
  }

  private answerList(user: string): Response {
    const { version, repositories } = this.lists.get(user) ?? EMPTY;
    return Response.json(repositories, { headers: { ETag: `"${version}"` } });
  }

  private async replace(user: string, request: Request): Promise<Response> {
    const current = this.lists.get(user) ?? EMPTY;
    const match = request.headers.get('If-Match');
    if (match !== null && match !== `"${current.version}"`) {
      return problem(412, 'mapping_changed', 'The list changed meanwhile', {
        detail: 'Load it again.',
      });
    }
    this.sent = (await request.json()) as ListEntry[];
    const wrongCharges = this.sent.flatMap(refuseCharge);
    if (wrongCharges.length > 0) {
      return wrongEntries(wrongCharges);
    }
    const entries = this.sent.map((entry) =>
      typeof entry === 'string' ? entry : entry.repository,
    );
    const wrong = entries.flatMap((entry, index) => this.refuse(entry, index));
    if (wrong.length > 0) {
      return wrongEntries(wrong);
    }
    const taken = entries.flatMap((entry, index) => this.refuseTaken(entry, index, user));
    if (taken.length > 0) {
      return mappedElsewhere(taken);
    }
    const unique = new Map(entries.map((entry) => [keyOf(entry), entry]));
    const names = [...unique.values()].map((entry) =>
      entry.startsWith('https://') ? entry : `https://github.com/${entry}`,
    );
    const charges = new Map(current.charges);
    for (const entry of this.sent) {
      if (typeof entry !== 'string') {
        charges.set(keyOf(entry.repository), chargeOf(entry));
      }
    }
    this.lists.set(user, { version: current.version + 1, repositories: names, charges });
    this.requested = this.requested.filter(
      (each) => each.user !== user || !unique.has(keyOf(each.url)),
    );
    return this.answerList(user);
  }

  private async ofUser(
    user: string,
    name: string | undefined,
    request: Request,
    administrator: boolean,
  ): Promise<Response> {
    const list = this.lists.get(user) ?? EMPTY;
    const asked = this.requested.filter((each) => each.user === user);
    if (request.method === 'GET') {
      const mapped = list.repositories.map(
        (url, id): UserRepository => ({
          user,
          state: 'mapped',
          id,
          url,
          ...list.charges.get(keyOf(url)),
        }),
      );
      return Response.json([...mapped, ...asked]);
    }
    const { repository } =
      name === undefined
        ? ((await request.json()) as { repository: string })
        : { repository: name };
    const isIt = (url: string) => keyOf(url) === keyOf(repository);
    const waits = asked.find(({ url }) => isIt(url));
    const decides = new URL(request.url).searchParams.get('waiting') === 'true';
    if (waits === undefined && decides) {
      return problem(409, 'repository_not_waiting', 'It does not wait any more');
    }
    if (
      waits !== undefined &&
      decides &&
      request.headers.get('If-Match') !== `"${waits.version}"`
    ) {
      return problem(412, 'request_changed', 'The request has changed since you looked', {
        detail: `${user} of cluster ${waits.cluster} now asks for account ${waits.account ?? 'default'}.`,
      });
    }
    if (request.method === 'DELETE') {
      if (waits === undefined && !list.repositories.some(isIt)) {
        return problem(404, 'repository_not_mapped', 'The user does not have this repository');
      }
      const repositories = list.repositories.filter((url) => !isIt(url));
      this.lists.set(user, { ...list, version: list.version + 1, repositories });
      this.requested = this.requested.filter((each) => each !== waits);
      return new Response(null, { status: 204 });
    }
    const taken = this.refuseTaken(fullNameOf(repository), 0, user);
    if (taken.length > 0) {
      return mappedElsewhere(taken);
    }
    const wrong = this.refuse(repository, 0);
    if (wrong.length > 0) {
      return wrongEntries(wrong);
    }
    if (!administrator) {
      this.ask(user, repository);
      return Response.json(this.requested.at(-1), { status: 202 });
    }
    const charge = chargeOf(waits ?? {});
    this.lists.set(user, {
      version: list.version + 1,
      repositories: [...list.repositories, repository],
      charges: new Map(list.charges).set(keyOf(repository), charge),
    });
    this.requested = this.requested.filter((each) => each !== waits);
    return Response.json({ user, state: 'mapped', id: 1, url: repository, ...charge });
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

  private refuseTaken(entry: string, index: number, user: string): ProblemPart[] {
    const taken = [...this.lists].some(
      ([other, { repositories }]) =>
        other !== user && repositories.some((each) => keyOf(each) === keyOf(entry)),
    );
    const detail = `${entry} is mapped to another Slurm user, who has to give it up first; ask an administrator`;
    return taken ? [{ index, value: entry, code: 'repository_mapped_elsewhere', detail }] : [];
  }
}

/** What only administrators may do, and what belongs to somebody else. */
function refuseCaller(me: Me, method: string, pathname: string): Response | undefined {
  if (me.administrator) {
    return undefined;
  }
  if (me.slurmUser == null) {
    return problem(403, 'not_linked', 'You are not linked to a Slurm user');
  }
  const owner = /^\/(?:api\/users|repositories)\/([^/]+)/.exec(pathname)?.[1];
  const replaces = method === 'POST' && pathname.startsWith('/repositories/');
  const forbidden = /^\/api\/(people|mapping-requests)/.test(pathname) || replaces;
  return forbidden || (owner !== undefined && owner !== me.slurmUser)
    ? problem(403, 'forbidden', 'Only administrators may do this')
    : undefined;
}

function refuseCharge(entry: ListEntry, index: number): ProblemPart[] {
  if (typeof entry === 'string') {
    return [];
  }
  const wrong = (['account', 'qos'] as const).find((key) => /[^\w.-]/.test(entry[key] ?? ''));
  const detail = `${wrong}: the value must be 1 to 64 letters, digits, hyphens, underscores and dots, and start with a letter or digit`;
  return wrong === undefined
    ? []
    : [{ index, value: entry.repository, code: 'charge_invalid', detail }];
}

function wrongEntries(errors: ProblemPart[]): Response {
  return problem(422, 'repositories_invalid', 'Some entries cannot be used', { errors });
}

function mappedElsewhere(errors: ProblemPart[]): Response {
  const title = 'A repository is mapped to another Slurm user';
  return problem(409, 'repository_mapped_elsewhere', title, { errors });
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
