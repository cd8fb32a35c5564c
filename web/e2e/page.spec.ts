import AxeBuilder from '@axe-core/playwright';
import { expect, type Page, test } from '@playwright/test';
import type { Me } from '../src/api/api';
import { FakeApi, problem } from '../test/fakeApi';
import { busyDay, serve } from './scene';

// Each scene is tested in each look: a screenshot, an axe check, and a check for sideways scrolling.
const LOOKS = [
  { name: 'light', colorScheme: 'light', viewport: { width: 1280, height: 800 } },
  { name: 'dark', colorScheme: 'dark', viewport: { width: 1280, height: 800 } },
  { name: 'mobile', colorScheme: 'light', viewport: { width: 375, height: 740 } },
] as const;

interface Scene {
  readonly name: string;
  readonly path: string;
  readonly api?: () => FakeApi;
  readonly signedIn?: boolean;
  /** What a person does there, and what the page shows then. */
  readonly act: (page: Page, api: FakeApi) => Promise<void>;
}

/** A busy day, seen by somebody who signed in with GitHub. */
function as(login: string, more: Partial<Me> = {}): FakeApi {
  const api = busyDay();
  api.signIn(login, more);
  return api;
}

async function addAll(page: Page, text: string) {
  await page.getByRole('textbox', { name: 'Add repositories' }).fill(text);
  await page.getByRole('button', { name: 'Add' }).click();
}

async function charge(page: Page, name: string, account: string) {
  await page.getByRole('button', { name: `Account and QOS of ${name}` }).click();
  await page.getByRole('textbox', { name: 'Account' }).fill(account);
  await page.getByRole('button', { name: 'Apply' }).click();
}

const SCENES: readonly Scene[] = [
  {
    name: 'sign-in',
    path: '/',
    signedIn: false,
    act: (page) => expect(page.getByLabel('Bearer token')).toBeFocused(),
  },
  {
    name: 'sign-in-refused',
    path: '/',
    signedIn: false,
    act: async (page) => {
      await page.getByLabel('Bearer token').fill('wrong');
      await page.keyboard.press('Enter');
      await expect(page.getByText('does not accept this token')).toBeVisible();
    },
  },
  {
    name: 'sign-in-github',
    path: '/?sign_in=cancelled',
    signedIn: false,
    api: () => {
      const api = new FakeApi();
      api.github = true;
      return api;
    },
    act: async (page) => {
      await expect(page.getByRole('link', { name: 'Sign in with GitHub' })).toBeVisible();
      await page.getByText('Use a token').click();
      await expect(page.getByLabel('Bearer token')).toBeVisible();
    },
  },
  {
    name: 'not-linked',
    path: '/',
    signedIn: false,
    api: () => as('octocat'),
    act: async (page) => {
      await page.getByRole('button', { name: 'Check again' }).click();
      await expect(page.getByText('still not linked')).toBeVisible();
    },
  },
  {
    name: 'account-menu',
    path: '/',
    signedIn: false,
    api: () => as('octocat', { slurmUser: 'alice' }),
    act: async (page) => {
      await page.getByRole('button', { name: 'Signed in as octocat' }).click();
      await expect(page.getByRole('button', { name: 'Sign out everywhere' })).toBeVisible();
    },
  },
  {
    name: 'own-repositories',
    path: '/mapping',
    signedIn: false,
    api: () => as('octocat', { slurmUser: 'alice' }),
    act: async (page) => {
      await addAll(page, 'octo/new-project octo/secret');
      await expect(page.getByText('Requested. octo/new-project')).toBeVisible();
    },
  },
  {
    name: 'people',
    path: '/people',
    signedIn: false,
    api: () => as('root', { administrator: true }),
    act: async (page) => {
      await expect(page.getByRole('row', { name: /octocat/ })).toBeVisible();
    },
  },
  {
    name: 'people-link',
    path: '/people',
    signedIn: false,
    api: () => as('root', { administrator: true }),
    act: async (page) => {
      await page.getByRole('button', { name: 'Link hubot' }).click();
      await page.getByRole('button', { name: 'Link', exact: true }).click();
      await expect(page.getByText('Enter a Slurm user.')).toBeVisible();
    },
  },
  {
    name: 'builds-empty',
    path: '/?user=carol',
    act: (page) => expect(page.getByText('No builds for carol yet')).toBeVisible(),
  },
  {
    name: 'builds',
    path: '/?user=alice',
    act: (page) => expect(page.getByText('In progress')).toBeVisible(),
  },
  {
    name: 'builds-everyone',
    path: '/?user=alice&show=everyone',
    act: (page) => expect(page.getByText('Waiting for a mapping')).toBeVisible(),
  },
  {
    name: 'builds-error',
    path: '/?user=alice',
    act: async (page, api) => {
      await expect(page.getByText('In progress')).toBeVisible();
      api.trouble = () =>
        problem(503, 'unavailable', 'Not available right now', {
          detail: 'The database is not available; try again.',
        });
      await expect(page.getByText('may be out of date')).toBeVisible({ timeout: 20_000 });
    },
  },
  {
    name: 'build-running',
    path: '/builds/39210001?user=alice',
    act: (page) => expect(page.getByText('runs on node017')).toBeVisible(),
  },
  {
    name: 'build-stuck',
    path: '/builds/39210005?user=alice',
    act: async (page) => {
      await page.getByText('Show the end of the job script’s log').click();
      await expect(page.getByText('No space left on device')).toBeVisible();
    },
  },
  {
    name: 'build-unmapped',
    path: '/builds/39210006',
    act: (page) => expect(page.getByText('Repository not mapped')).toBeVisible(),
  },
  {
    name: 'build-unknown',
    path: '/builds/1',
    act: (page) => expect(page.getByText('Build not found')).toBeVisible(),
  },
  {
    name: 'usage',
    path: '/usage?month=2026-10',
    act: (page) => expect(page.getByRole('row', { name: /octo\/open-source/ })).toBeVisible(),
  },
  {
    name: 'usage-empty',
    path: '/usage?month=2026-09&user=alice',
    act: (page) => expect(page.getByText('No usage in September 2026')).toBeVisible(),
  },
  {
    name: 'mapping-no-user',
    path: '/mapping',
    act: (page) => expect(page.getByText('Choose a Slurm user')).toBeVisible(),
  },
  {
    name: 'mapping-empty',
    path: '/mapping?user=carol',
    act: (page) => expect(page.getByText('No repositories yet')).toBeVisible(),
  },
  {
    name: 'mapping-unsaved',
    path: '/mapping?user=alice',
    act: async (page) => {
      await addAll(page, 'octo/new-project');
      await page.getByRole('button', { name: 'Remove octo/paper-2026' }).click();
      await expect(page.getByText('Unsaved changes: 1 added, 1 removed')).toBeVisible();
    },
  },
  {
    name: 'mapping-refused',
    path: '/mapping?user=alice',
    act: async (page) => {
      await addAll(page, 'octo/new-project octo/secret https://gitlab.com/octo/other');
      await page.getByRole('button', { name: 'Save list' }).click();
      await expect(page.getByText('Nothing was saved')).toBeVisible();
    },
  },
  {
    name: 'mapping-conflict',
    path: '/mapping?user=alice',
    act: async (page, api) => {
      await addAll(page, 'octo/new-project');
      api.map('alice', 'octo/simulation', 'octo/added-by-somebody');
      await page.getByRole('button', { name: 'Save list' }).click();
      await expect(page.getByText('Someone else changed')).toBeVisible();
    },
  },
  {
    name: 'mapping-charge',
    path: '/mapping?user=alice',
    act: async (page) => {
      await page.getByRole('button', { name: 'Account and QOS of octo/simulation' }).click();
      await expect(page.getByRole('textbox', { name: 'Account' })).toBeFocused();
    },
  },
  {
    name: 'mapping-charged',
    path: '/mapping?user=alice',
    act: async (page) => {
      await charge(page, 'octo/simulation', '');
      await charge(page, 'octo/mesh-tools', 'engineering');
      await expect(page.getByText('Unsaved changes: 2 with a new account or QOS')).toBeVisible();
    },
  },
  {
    name: 'mapping-charge-refused',
    path: '/mapping?user=alice',
    act: async (page) => {
      await charge(page, 'octo/mesh-tools', 'two words');
      await page.getByRole('button', { name: 'Save list' }).click();
      await expect(page.getByText('account: the value must be')).toBeVisible();
    },
  },
  {
    name: 'mapping-granted',
    path: '/mapping?user=alice',
    act: async (page) => {
      await page.getByRole('button', { name: 'Grant octo/shared to alice' }).click();
      await expect(page.getByText('The request is still pending')).toBeVisible();
      await page.getByRole('button', { name: /^Grant octo.adaptive/ }).click();
      await expect(page.getByText('is now mapped to alice')).toBeVisible();
    },
  },
  {
    name: 'requests',
    path: '/requests',
    act: (page) => expect(page.getByText('newlab/first-steps')).toBeVisible(),
  },
  {
    name: 'requests-empty',
    path: '/requests?user=alice',
    api: () => new FakeApi(),
    act: (page) => expect(page.getByText('No pending requests')).toBeVisible(),
  },
  {
    name: 'requests-refused',
    path: '/requests',
    act: async (page) => {
      await page.getByRole('button', { name: 'Grant octo/shared to alice' }).click();
      await expect(page.getByText('The request is still pending')).toBeVisible();
      await page.getByRole('button', { name: 'Refuse newlab/first-steps' }).click();
      await expect(page.getByText('The user can ask again')).toBeVisible();
    },
  },
  {
    name: 'mapping-leave',
    path: '/mapping?user=alice',
    act: async (page) => {
      await addAll(page, 'octo/new-project');
      await page.getByRole('button', { name: 'Sign out' }).click();
      await expect(page.getByRole('alertdialog')).toBeVisible();
    },
  },
  {
    name: 'mapping-saved',
    path: '/mapping?user=alice',
    act: async (page) => {
      await addAll(page, 'octo/new-project');
      await page.getByRole('button', { name: 'Save list' }).click();
      await expect(page.getByText('Saved. alice has 4 repositories.')).toBeVisible();
    },
  },
];

for (const { name: look, colorScheme, viewport } of LOOKS) {
  test.describe(look, () => {
    test.use({ colorScheme, viewport });
    for (const scene of SCENES) {
      test(scene.name, async ({ page }, info) => {
        const complaints: string[] = [];
        page.on('pageerror', (error) => complaints.push(error.message));
        page.on('console', (message) => {
          // The browser itself reports each error response.
          if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) {
            complaints.push(message.text());
          }
        });
        const api = (scene.api ?? busyDay)();
        await serve(page, api, { signedIn: scene.signedIn ?? true });
        await page.goto(scene.path);
        await scene.act(page, api);

        await page.screenshot({
          path: `${info.project.outputDir}/screenshots/${scene.name}-${look}.png`,
          fullPage: true,
          animations: 'disabled',
        });
        // Primer's own colours of what is pointed at are not ours to choose.
        await page.mouse.move(0, 0);
        const { violations } = await new AxeBuilder({ page }).analyze();
        expect(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])).toEqual([]);
        const overflow = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        expect(overflow, 'sideways scrolling in pixels').toBe(0);
        // Includes what the Content-Security-Policy blocked.
        expect(complaints).toEqual([]);
      });
    }
  });
}
