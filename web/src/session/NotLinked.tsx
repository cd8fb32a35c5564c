import { ServerIcon } from '@primer/octicons-react';
import { Button, Heading, Text } from '@primer/react';
import { useState } from 'react';
import type { Me } from '../api/api';
import { ProblemBanner } from '../ui/ProblemBanner';
import { Status } from '../ui/Status';
import styles from './SignIn.module.css';
import { useSession } from './session';

/** Shown to a person without a Slurm user: what an administrator has to do for them. */
export function NotLinked({ me }: { readonly me: Me }) {
  const { refresh, leave } = useSession();
  const [busy, setBusy] = useState(false);
  const [checked, setChecked] = useState(false);
  const [failure, setFailure] = useState<{ readonly title: string; readonly error: Error }>();

  async function attempt(title: string, action: () => Promise<void>) {
    if (busy) {
      return;
    }
    setBusy(true);
    setChecked(false);
    setFailure(undefined);
    try {
      await action();
      setChecked(true);
    } catch (error) {
      setFailure({ title, error: error instanceof Error ? error : new Error(String(error)) });
    } finally {
      setBusy(false);
    }
  }

  return (
    <main className={styles.page}>
      <title>Not linked · gha-slurm</title>
      <div className={styles.box}>
        <span className={styles.mark}>
          <ServerIcon size={32} />
        </span>
        <Heading as="h1" className={styles.heading}>
          Your account is not linked yet
        </Heading>
        {failure !== undefined && <ProblemBanner {...failure} />}
        <div className={styles.form}>
          <Text as="p">
            You are signed in as GitHub user <strong>{me.login}</strong> (ID {me.githubId}). Before
            you can see your builds, an administrator must link this GitHub account to your Slurm
            user.
          </Text>
          <Text as="p">Send this to an administrator, with your Slurm user name:</Text>
          <pre className={styles.message}>
            {`Please link GitHub user ${me.login} (ID ${me.githubId}) to my Slurm user in gha-slurm: …`}
          </pre>
          <Button
            variant="primary"
            block
            aria-disabled={busy}
            onClick={() => void attempt('Could not check again', refresh)}
          >
            Check again
          </Button>
          <Status>{checked && 'Your account is still not linked.'}</Status>
          <Button
            variant="invisible"
            block
            aria-disabled={busy}
            onClick={() => void attempt('Could not sign out', () => leave(false))}
          >
            Sign out
          </Button>
        </div>
      </div>
    </main>
  );
}
