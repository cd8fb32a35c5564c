import { ServerIcon } from '@primer/octicons-react';
import { Banner, Button, FormControl, Heading, Text, TextInput } from '@primer/react';
import { type FormEvent, useRef, useState } from 'react';
import { createApi } from '../api/api';
import { isUnauthorized } from '../api/problem';
import styles from './SignIn.module.css';
import { useSession } from './session';

/** Asks for the bearer token and checks it before storing it. */
export function SignIn() {
  const { ended, signIn } = useSession();
  const input = useRef<HTMLInputElement>(null);
  const [busy, setBusy] = useState(false);
  const [refusal, setRefusal] = useState<string>();
  const [failure, setFailure] = useState<string>();

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (busy) {
      return;
    }
    const token = input.current?.value.trim() ?? '';
    setFailure(undefined);
    const wrong = obviousMistake(token);
    setRefusal(wrong);
    if (wrong !== undefined) {
      input.current?.focus();
      return;
    }
    setBusy(true);
    try {
      await createApi(token).builds({ limit: 1 });
      signIn(token);
    } catch (error) {
      setBusy(false);
      if (isUnauthorized(error)) {
        setRefusal(
          'The service does not accept this token. Check that you copied the whole token and that it belongs to this deployment.',
        );
        input.current?.focus();
      } else {
        setFailure(error instanceof Error ? error.message : String(error));
      }
    }
  }

  return (
    <main className={styles.page}>
      <title>Sign in · gha-slurm</title>
      <div className={styles.box}>
        <span className={styles.mark}>
          <ServerIcon size={32} />
        </span>
        <Heading as="h1" className={styles.heading}>
          Sign in to gha-slurm
        </Heading>
        {ended !== undefined && refusal === undefined && (
          <Banner variant="warning" title="You were signed out" description={ended} />
        )}
        {failure !== undefined && (
          <Banner variant="critical" title="Could not check the token" description={failure} />
        )}
        <form onSubmit={submit} className={styles.form} noValidate>
          <FormControl>
            <FormControl.Label>Bearer token</FormControl.Label>
            <TextInput
              ref={input}
              type="password"
              block
              size="large"
              monospace
              // A token is not a person's password: the browser must not save it.
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
              autoFocus
              validationStatus={refusal === undefined ? undefined : 'error'}
            />
            {refusal !== undefined && (
              <FormControl.Validation variant="error">{refusal}</FormControl.Validation>
            )}
          </FormControl>
          <Button type="submit" variant="primary" size="large" block aria-disabled={busy}>
            {busy ? 'Signing in…' : 'Sign in'}
          </Button>
        </form>
        <Text as="p" className={styles.hint}>
          Ask an administrator for the token: it is in the server’s settings, under access.tokens.
          This browser tab keeps the token until you close it.
        </Text>
      </div>
    </main>
  );
}

function obviousMistake(token: string): string | undefined {
  if (token === '') {
    return 'Enter the bearer token.';
  }
  if (/^bearer\s/i.test(token)) {
    return 'Enter only the token, without “Bearer”.';
  }
  // An HTTP header can carry no other characters.
  return /^[\x21-\x7e]+$/.test(token)
    ? undefined
    : 'A token has no spaces, line breaks or special characters. Check what you pasted.';
}
