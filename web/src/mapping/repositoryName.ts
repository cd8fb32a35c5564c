/** What became of something a person typed as a repository. */
export type ParsedRepository =
  | { readonly ok: true; readonly repository: string }
  | { readonly ok: false; readonly text: string; readonly reason: string };

const OWNER = /^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/;
const NAME = /^[A-Za-z0-9_.-]{1,100}$/;

/**
 * Reads a repository as people paste it: `owner/name`, an address of any of its pages at GitHub, or what `git clone`
 * takes. The result is `owner/name`, or `https://host/owner/name` where a host was given: which GitHub this
 * deployment serves, the service knows.
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
    return refuse('Write owner/name, or the address of the repository.');
  }
  if (host === undefined && deeper.length > 0) {
    return refuse('That is a path with more than owner/name.');
  }
  const bareName = name.replace(/\.git$/i, '');
  if (!OWNER.test(owner)) {
    return refuse(`“${owner}” is no account at GitHub: letters, digits, - and _ only.`);
  }
  if (!NAME.test(bareName) || bareName === '.' || bareName === '..') {
    return refuse(`“${bareName}” is no repository name: letters, digits, -, _ and . only.`);
  }
  const fullName = `${owner}/${bareName}`;
  return {
    ok: true,
    repository: host === undefined ? fullName : `https://${host.toLowerCase()}/${fullName}`,
  };
}

/** Several at once, as pasted: one a line, or separated by spaces or commas. */
export function parseRepositories(input: string): ParsedRepository[] {
  return input
    .split(/[\s,;]+/)
    .filter((text) => text !== '')
    .map(parseRepository);
}

/** `owner/name` of a repository as the API or a person writes it. */
export function fullNameOf(repository: string): string {
  return repository.replace(/^https?:\/\/[^/]+\//i, '');
}

/** Equal for two spellings of one repository: GitHub ignores case, and a deployment serves one GitHub. */
export function keyOf(repository: string): string {
  return fullNameOf(repository).toLowerCase();
}
