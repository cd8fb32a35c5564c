import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import type { Person } from '../api/api';
import { useApi } from '../app/apiContext';

const PEOPLE_KEY = ['people'] as const;

/** Everyone who has signed in with GitHub. */
export function usePeople() {
  const api = useApi();
  return useQuery({ queryKey: PEOPLE_KEY, queryFn: ({ signal }) => api.people(signal) });
}

/** The Slurm user to link a person to. */
export interface SlurmUserLink {
  readonly slurmUser: string;
  readonly cluster: string | null;
}

/** Links a person to a Slurm user, or unlinks them. */
export function useLink(person: Person) {
  const api = useApi();
  const queries = useQueryClient();
  return useMutation({
    mutationFn: (link: SlurmUserLink | undefined) =>
      link === undefined
        ? api.unlinkPerson(person.githubId)
        : api.linkPerson(person.githubId, link.slurmUser, link.cluster),
    onSuccess: (saved) => {
      queries.setQueryData<Person[]>(PEOPLE_KEY, (before) =>
        before?.map((each) => (each.githubId === saved.githubId ? saved : each)),
      );
    },
    onSettled: () => queries.invalidateQueries({ queryKey: PEOPLE_KEY }),
  });
}
