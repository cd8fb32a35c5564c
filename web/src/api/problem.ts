import type { components } from './schema';

/** An error body of gha-slurm's services (RFC 9457). */
export type Problem = components['schemas']['Problem'];
/** One wrong part of an input. */
export type ProblemPart = components['schemas']['ProblemPart'];

/** The service returned an error. */
export class ApiError extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail ?? problem.title);
    this.name = 'ApiError';
    this.problem = problem;
  }
}

/** No response: the network, the proxy or the service is down. */
export class UnreachableError extends Error {
  constructor(cause: unknown) {
    super('Cannot reach the service. Check your connection and try again.', { cause });
    this.name = 'UnreachableError';
  }
}

/** Whether `error` is the problem with this code. */
export function hasCode(error: unknown, code: string): error is ApiError {
  return error instanceof ApiError && error.problem.code === code;
}

/** Whether `error` says that the token or the session is not accepted. */
export function isUnauthorized(error: unknown): error is ApiError {
  return error instanceof ApiError && error.problem.status === 401;
}

/** Whether a retry can help: no response, a server error, or too many requests. */
export function isTransient(error: unknown): boolean {
  if (error instanceof ApiError) {
    return error.problem.status >= 500 || error.problem.status === 429;
  }
  return error instanceof UnreachableError;
}

/** What went wrong, for people, in the API's own words where it has any. */
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

/** The problem of an error response. A proxy's error page becomes a problem too. */
export async function problemOf(response: Response): Promise<Problem> {
  const body: unknown = await response.json().catch(() => undefined);
  if (looksLikeProblem(body)) {
    return { ...body, status: response.status };
  }
  return {
    type: 'about:blank',
    title: `The service returned ${response.status} ${response.statusText}`.trimEnd(),
    status: response.status,
    code: 'unknown',
    detail:
      response.status >= 500 ? 'It may be starting or overloaded. Try again in a moment.' : null,
  };
}
