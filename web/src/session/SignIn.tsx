import { MarkGithubIcon, ServerIcon } from '@primer/octicons-react';
import { Banner, Button, FormControl, Heading, SkeletonBox, Text, TextInput } from '@primer/react';
import { type FormEvent, useEffect, useRef, useState } from 'react';
import { createApi, type SignInWays } from '../api/api';
import { isUnauthorized } from '../api/problem';
import { useDrafts } from '../mapping/drafts';
import { ProblemBanner } from '../ui/ProblemBanner';
import type { Notice } from './outcome';
import styles from './SignIn.module.css';
import { useSession } from './session';

interface Props {
  readonly notice: Notice | undefined;
  /** Why the service could not say who is signed in. */
  readonly failure: Error | undefined;
  /** The path to show once the user is signed in. */
  readonly returnTo: string;
}

/** Signs in with GitHub where the site has set that up, or with a bearer token. */
export function SignIn({ notice, failure, returnTo }: Props) {
  const { check } = useSession();
  const { ways, error, retry } = useWays();
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
        {notice !== undefined && (
          <Banner variant="warning" title={notice.title} description={notice.text} />
        )}
        {failure !== undefined ? (
          <ProblemBanner
            title="Could not check whether you are signed in"
            error={failure}
            onRetry={check}
          />
        ) : (
          error !== undefined && (
            <ProblemBanner
              title="Could not load the ways to sign in"
              error={error}
              onRetry={retry}
            />
          )
        )}
        {ways === undefined && error === undefined ? (
          <div role="status" aria-label="Loading" className={styles.form}>
            <SkeletonBox height="2.5rem" />
          </div>
        ) : ways?.github ? (
          <>
            <GitHubLink returnTo={returnTo} />
            <details className={styles.other}>
              <summary>Use a token</summary>
              <TokenForm />
            </details>
          </>
        ) : (
          <TokenForm main />
        )}
      </div>
    </main>
  );
}

function useWays() {
  const [answer, setAnswer] = useState<{ ways?: SignInWays; error?: Error }>({});
  useEffect(() => {
    if (answer.ways !== undefined || answer.error !== undefined) {
      return;
    }
    const controller = new AbortController();
    const { signal } = controller;
    createApi()
      .signInWays(signal)
      .then(
        (ways) => signal.aborted || setAnswer({ ways }),
        (error) => signal.aborted || setAnswer({ error }),
      );
    return () => controller.abort();
  }, [answer]);
  return { ...answer, retry: () => setAnswer({}) };
}

function GitHubLink({ returnTo }: { readonly returnTo: string }) {
  const drafts = useDrafts();
  return (
    <div className={styles.form}>
      <Button
        as="a"
        href={`/api/sign-in/github?return_to=${encodeURIComponent(returnTo)}`}
        onClick={drafts.store}
        variant="primary"
        size="large"
        block
        leadingVisual={MarkGithubIcon}
      >
        Sign in with GitHub
      </Button>
    </div>
  );
}

interface TokenFormProps {
  /** Whether this is the page's main way to sign in. */
  readonly main?: boolean;
}

/** Asks for the bearer token and checks it before storing it. */
function TokenForm({ main = false }: TokenFormProps) {
  const { signIn } = useSession();
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
    <>
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
            autoFocus={main}
            validationStatus={refusal === undefined ? undefined : 'error'}
          />
          {refusal !== undefined && (
            <FormControl.Validation variant="error">{refusal}</FormControl.Validation>
          )}
        </FormControl>
        <Button
          type="submit"
          variant={main ? 'primary' : 'default'}
          size="large"
          block
          aria-disabled={busy}
        >
          {busy ? 'Signing in…' : 'Sign in'}
        </Button>
      </form>
      <Text as="p" className={styles.hint}>
        Ask an administrator for the token: it is in the server’s settings, under access.tokens.
        This browser tab keeps the token until you close it.
      </Text>
    </>
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
