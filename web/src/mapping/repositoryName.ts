/** A repository as typed, parsed or refused. */
export type ParsedRepository =
  | { readonly ok: true; readonly repository: string }
  | { readonly ok: false; readonly text: string; readonly reason: string };

const OWNER = /^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/;
const NAME = /^[A-Za-z0-9_.-]{1,100}$/;

/**
 * Parses a repository as people paste it: `owner/name`, the URL of any of its pages on GitHub, or a `git clone` URL.
 * Returns `owner/name`, or `https://host/owner/name` if the text names a host: only the service knows which GitHub this
 * deployment serves.
 */
export function parseRepository(input: string): ParsedRepository {
  const text = input.trim();
  const refuse = (reason: string): ParsedRepository => ({ ok: false, text, reason });

  const ssh = /^(?:ssh:\/\/)?git@([^/:]+)[:/](.+)$/.exec(text);
  const web = /^https?:\/\/(?:[^/@]*@)?([^/]+)(?:\/(.*))?$/i.exec(text);
  const bare = /^([\w-]+(?:\.[\w-]+)+)\/([^/]+\/.+)$/.exec(text);
  const [host, rest] = ssh?.slice(1) ?? web?.slice(1) ?? bare?.slice(1) ?? [undefined, text];
  const path = (rest ?? '').split(/[?#]/, 1)[0] ?? '';

  const [owner = '', name = '', ...deeper] = path.split('/').filter((part) => part !== '');
  if (owner === '' || name === '') {
    return refuse('Enter owner/name or the URL of the repository.');
  }
  if (host === undefined && deeper.length > 0) {
    return refuse('The path has more parts than owner/name.');
  }
  const bareName = name.replace(/\.git$/i, '');
  if (!OWNER.test(owner)) {
    return refuse(
      `“${owner}” is not a valid GitHub account name. Use only letters, digits, hyphens and underscores.`,
    );
  }
  if (!NAME.test(bareName) || bareName === '.' || bareName === '..') {
    return refuse(
      `“${bareName}” is not a valid repository name. Use only letters, digits, hyphens, underscores and periods.`,
    );
  }
  const fullName = `${owner}/${bareName}`;
  return {
    ok: true,
    repository: host === undefined ? fullName : `https://${host.toLowerCase()}/${fullName}`,
  };
}

/** Parses several repositories, separated by white space, commas or semicolons. */
export function parseRepositories(input: string): ParsedRepository[] {
  return input
    .split(/[\s,;]+/)
    .filter((text) => text !== '')
    .map(parseRepository);
}

/** Returns `owner/name` of a repository in any form the API or a person writes. */
export function fullNameOf(repository: string): string {
  return repository.replace(/^https?:\/\/[^/]+\//i, '');
}

/** A key that is equal for all spellings of a repository: GitHub ignores case, and a deployment serves one GitHub. */
export function keyOf(repository: string): string {
  return fullNameOf(repository).toLowerCase();
}
