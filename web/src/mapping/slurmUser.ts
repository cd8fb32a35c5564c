/** What is wrong with `text` as a Slurm user, or `undefined`. The service has the same rule. */
export function slurmUserProblem(text: string): string | undefined {
  if (text === '') {
    return 'Enter a Slurm user.';
  }
  return /^(?!\d+$)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$/.test(text)
    ? undefined
    : 'Enter a Unix user name: up to 64 letters, digits, hyphens, underscores, periods and @, starting with a letter, a digit or an underscore, and not only digits.';
}
