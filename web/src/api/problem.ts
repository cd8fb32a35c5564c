import type { components } from './schema';

/** An error as every service of ours answers it (RFC 9457). */
export type Problem = components['schemas']['Problem'];
/** One wrong part of an input. */
export type ProblemPart = components['schemas']['ProblemPart'];

/** The service answered with an error. */
export class ApiError extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail ?? problem.title);
    this.name = 'ApiError';
    this.problem = problem;
  }
}

/** No answer came back: the network, the proxy or the service is away. */
export class UnreachableError extends Error {
  constructor(cause: unknown) {
    super('The service cannot be reached. Check your connection; it is tried again.', { cause });
    this.name = 'UnreachableError';
  }
}

/** Whether `error` is the problem with this code. */
export function hasCode(error: unknown, code: string): error is ApiError {
  return error instanceof ApiError && error.problem.code === code;
}

/** Whether `error` says that the bearer token is not accepted. */
export function isUnauthorized(error: unknown): error is ApiError {
  return error instanceof ApiError && error.problem.status === 401;
}

/** Whether trying again can help: nothing answered, or the service said "not now". */
export function isTransient(error: unknown): boolean {
  if (error instanceof ApiError) {
    return error.problem.status >= 500 || error.problem.status === 429;
  }
  return error instanceof UnreachableError;
}

/** What went wrong, for people: the service's own words where it said any. */
export function explanationOf(error: Error): string {
  if (!(error instanceof ApiError)) {
    return error.message;
  }
  const { title, detail } = error.problem;
  return detail == null ? title : `${title}. ${detail}`;
}

function looksLikeProblem(body: unknown): body is Problem {
  return (
    typeof body === 'object' &&
    body !== null &&
    'code' in body &&
    typeof body.code === 'string' &&
    'title' in body &&
    typeof body.title === 'string'
  );
}

/** The problem an error response carries; what a proxy in between answers becomes one too. */
export async function problemOf(response: Response): Promise<Problem> {
  const body: unknown = await response.json().catch(() => undefined);
  if (looksLikeProblem(body)) {
    return { ...body, status: response.status };
  }
  return {
    type: 'about:blank',
    title: `The service answered ${response.status} ${response.statusText}`.trimEnd(),
    status: response.status,
    code: 'unknown',
    detail: response.status >= 500 ? 'It may be starting or overloaded; it is tried again.' : null,
  };
}
