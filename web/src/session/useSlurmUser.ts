import { useSearch } from '@tanstack/react-router';
import { useMe } from './session';

/** The Slurm user whose builds and repositories are shown: the one an administrator selected, or a person's own. */
export function useSlurmUser(): string | undefined {
  const me = useMe();
  const { user } = useSearch({ from: '__root__' });
  return me.administrator ? user : (me.slurmUser ?? undefined);
}
