/** What is wrong with `text` as a Slurm user, or `undefined`. The service has the same rule. */
export function slurmUserProblem(text: string): string | undefined {
  if (text === '') {
    return 'Enter a Slurm user.';
  }
  return /^[A-Za-z_][A-Za-z0-9_.-]{0,31}$/.test(text)
    ? undefined
    : 'Enter a Unix user name: up to 32 letters, digits, hyphens, underscores and periods, starting with a letter or an underscore.';
}
