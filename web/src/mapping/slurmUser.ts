/** What is wrong with `text` as a Slurm user; `undefined` when nothing is. The service has the same rule. */
export function slurmUserProblem(text: string): string | undefined {
  if (text === '') {
    return 'Enter a Slurm user.';
  }
  return /^[A-Za-z_][A-Za-z0-9_.-]{0,31}$/.test(text)
    ? undefined
    : 'That is no Unix user name: letters, digits, - _ . (at most 32, a letter or _ first).';
}
