// Drives every route of routes.txt once through Prism, which holds request and answer against GitHub's description.
// node check.mjs FOLDER-WITH-THE-BINARIES
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createSign } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const binaries = path.resolve(process.argv[2]);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'gha-slurm-contract-'));
const children = [];
const APP_ID = 4242;
const DEADLINE_MS = 60_000;

/** Starts a process that ends with this one. */
function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  child.text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (child.text += data));
  children.push(child);
  return child;
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listen(handler) {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

/** Looks again until there is something. */
async function until(what, look) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function appJwt() {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const signed = `${encode({ alg: 'RS256', typ: 'JWT' })}.${encode({ iat: now - 30, exp: now + 300, iss: `${APP_ID}` })}`;
  const key = fs.readFileSync(path.join(folder, 'app.pem'));
  return `${signed}.${createSign('RSA-SHA256').update(signed).sign(key, 'base64url')}`;
}

async function main() {
  const wanted = fs.readFileSync(path.join(here, 'routes.txt'), 'utf8').split('\n').filter(Boolean);
  const hook = await listen((request, response) => request.resume().on('end', () => response.writeHead(503).end('no')));
  fs.writeFileSync(path.join(folder, 'secret'), 'secret');
  const callback = 'http://127.0.0.1:9/callback';
  const github = `http://127.0.0.1:${await freePort()}`;
  const simulator = start(path.join(binaries, 'gha-slurm-simulator'), [
    '--listen', new URL(github).host, '--app-id', `${APP_ID}`,
    '--app-private-key-file', path.join(folder, 'app.pem'), '--create-app-private-key',
    '--webhook-url', hook.url, '--webhook-secret-file', path.join(folder, 'secret'),
    '--repository', 'acme/widgets', '--repository', 'acme/open:public', '--repository', 'ada/notes',
    '--client-id', 'Iv1.contract', '--client-secret-file', path.join(folder, 'secret'), '--callback-url', callback,
    '--person', 'ada:acme/widgets=maintain',
  ]);
  await until('the simulator answers', () => fetch(`${github}/simulator/health`).catch(() => running(simulator)));

  // Between Prism and the simulator: passes everything on, but can spoil an answer to see that Prism notices.
  let spoil = null;
  const between = await listen(async (request, response) => {
    const body = [];
    for await (const chunk of request) body.push(chunk);
    const hasBody = !['GET', 'HEAD'].includes(request.method);
    const headers = Object.fromEntries(
      Object.entries(request.headers).filter(([name]) => !['host', 'connection', 'content-length', 'transfer-encoding'].includes(name)),
    );
    const answer = await fetch(github + request.url, {
      method: request.method, headers, redirect: 'manual', body: hasBody ? Buffer.concat(body) : undefined,
    });
    let text = await answer.text();
    if (spoil && text) text = JSON.stringify(spoil(JSON.parse(text)));
    const type = answer.headers.get('content-type');
    response.writeHead(answer.status, type ? { 'content-type': type } : {}).end(text);
  });

  const port = await freePort();
  const prism = start(process.execPath, [
    path.join(here, 'node_modules/@stoplight/prism-cli/dist/index.js'),
    'proxy', path.join(here, 'github-api.json'), between.url, '-h', '127.0.0.1', '-p', `${port}`, '--errors',
  ]);
  await until('Prism listens', () => prism.text.includes('Prism is listening') || running(prism));

  const driven = new Set();
  /** Calls a route of the description through Prism and requires this status. */
  async function call(route, parameters, expected, { token, basic, body, query = '' } = {}) {
    const [method, pattern] = route.split(' ');
    const url = pattern.replace(/\{(\w+)\}/g, (_, name) => parameters[name]);
    const answer = await fetch(`http://127.0.0.1:${port}${url}${query}`, {
      method,
      headers: {
        accept: 'application/vnd.github+json',
        authorization: basic ? `Basic ${Buffer.from(basic).toString('base64')}` : `Bearer ${token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    const violations = answer.headers.get('sl-violations');
    if (answer.status !== expected || violations) {
      throw new Error(`${route}${query}: ${answer.status} instead of ${expected}\n${violations ?? ''}\n${text}`);
    }
    driven.add(route);
    return text ? JSON.parse(text) : null;
  }
  const control = async (method, url, body) => {
    const answer = await fetch(`${github}/simulator${url}`, {
      method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body),
    });
    assert.ok(answer.ok, `${method} ${url}: ${answer.status}`);
    const text = await answer.text();
    return text ? JSON.parse(text) : null;
  };

  const jwt = appJwt();
  const app = { token: jwt };
  const acme = { owner: 'acme', repo: 'widgets' };
  await call('GET /app', {}, 200, app);
  const [installation] = await call('GET /app/installations', {}, 200, { ...app, query: '?per_page=1' });
  const one = { installation_id: installation.id };
  await call('GET /app/installations/{installation_id}', one, 200, app);
  await call('GET /app/installations/{installation_id}', { installation_id: 1 }, 404, app);
  await call('GET /repos/{owner}/{repo}/installation', acme, 200, app);
  await call('GET /repos/{owner}/{repo}/installation', { ...acme, repo: 'none' }, 404, app);
  const minting = 'POST /app/installations/{installation_id}/access_tokens';
  const { repositories } = await control('GET', '/state');
  const repository = repositories.find((known) => known.name === 'widgets');
  const narrowed = await call(minting, one, 201, {
    ...app, body: { repository_ids: [repository.id], permissions: { administration: 'write', actions: 'read' } },
  });
  await call(minting, one, 422, { ...app, body: { permissions: { contents: 'write' } } });
  await call(minting, one, 401, { token: 'nonsense', body: {} });
  const { token } = narrowed;
  const all = await call(minting, one, 201, { ...app, body: {} });
  await call('GET /installation/repositories', {}, 200, { token: all.token, query: '?per_page=1' });
  await call('GET /repos/{owner}/{repo}', acme, 200, { token });
  await call('GET /repos/{owner}/{repo}', { ...acme, repo: 'open' }, 200, { token: all.token });
  await call('GET /repos/{owner}/{repo}', { ...acme, repo: 'none' }, 404, { token });
  await call('GET /rate_limit', {}, 200, { token });

  // A person signs in. What is below /login is not in the description.
  const client = { client_id: 'Iv1.contract' };
  const basic = `${client.client_id}:secret`;
  async function signIn() {
    const { location } = await control('POST', '/sign-ins', {
      url: `${github}/login/oauth/authorize?client_id=${client.client_id}`, login: 'ada',
    });
    const answer = await fetch(`${github}/login/oauth/access_token`, {
      method: 'POST', headers: { accept: 'application/json' },
      body: new URLSearchParams({ ...client, client_secret: 'secret', code: new URL(location).searchParams.get('code') }),
    });
    const { access_token } = await answer.json();
    return { token: access_token };
  }
  const ada = await signIn();
  await call('GET /user', {}, 200, ada);
  await call('GET /user', {}, 401, { token: 'nonsense' });
  const { installations } = await call('GET /user/installations', {}, 200, { ...ada, query: '?per_page=10' });
  assert.equal(installations.length, 2);
  const ofUser = 'GET /user/installations/{installation_id}/repositories';
  const seen = await call(ofUser, one, 200, { ...ada, query: '?per_page=1' });
  assert.equal(seen.repositories[0].permissions.maintain, true);
  await call(ofUser, { installation_id: 1 }, 404, ada);
  await call('GET /user/installations', {}, 403, { token });
  await call('GET /repos/{owner}/{repo}', acme, 200, ada);
  await call('DELETE /applications/{client_id}/token', client, 204, { basic, body: { access_token: ada.token } });
  await call('DELETE /applications/{client_id}/grant', client, 204, { basic, body: { access_token: (await signIn()).token } });

  const runners = 'GET /repos/{owner}/{repo}/actions/runners';
  await call('POST /repos/{owner}/{repo}/actions/runners/registration-token', acme, 201, { token });
  await call('POST /repos/{owner}/{repo}/actions/runners/remove-token', acme, 201, { token });
  const minted = 'POST /repos/{owner}/{repo}/actions/runners/generate-jitconfig';
  const body = { name: 'r1', runner_group_id: 1, labels: ['self-hosted', 'slurm'], work_folder: '_work' };
  const made = await call(minted, acme, 201, { token, body });
  await call(minted, acme, 409, { token, body });
  const r1 = { ...acme, runner_id: made.runner.id };
  await call(runners, acme, 200, { token, query: '?name=r1' });
  await call(`${runners}/{runner_id}`, r1, 200, { token });

  // A workflow job at every station of its way, on a real stand-in runner.
  const standin = start(path.join(binaries, 'gha-slurm-standin-runner'), ['run'], {
    cwd: folder, env: { ...process.env, ACTIONS_RUNNER_INPUT_JITCONFIG: made.encoded_jit_config },
  });
  await until('the runner listens', () => standin.text.includes('Listening for Jobs') || running(standin));
  const job = 'GET /repos/{owner}/{repo}/actions/jobs/{job_id}';
  const queued = await control('POST', '/workflow-jobs', { repository: 'acme/widgets', labels: ['none'] });
  await call(job, { ...acme, job_id: queued.id }, 200, { token });
  const taken = await control('POST', '/workflow-jobs', {
    repository: 'acme/widgets', labels: ['slurm'], event: 'pull_request', fork: 'mallory/widgets', actor: 'mallory',
    script: 'while [ ! -e "$RUNNER_TEMP/go" ]; do sleep 0.05; done',
  });
  await control('GET', `/workflow-jobs/${taken.id}?wait_for=in_progress`);
  await call(job, { ...acme, job_id: taken.id }, 200, { token });
  await call(runners, acme, 200, { token });
  await call('DELETE /repos/{owner}/{repo}/actions/runners/{runner_id}', r1, 422, { token });
  await call('GET /repos/{owner}/{repo}/actions/runs', acme, 200, { token, query: '?status=in_progress&per_page=1' });
  await until('the step has started', () => fs.existsSync(path.join(folder, '_work/_temp')));
  fs.writeFileSync(path.join(folder, '_work/_temp/go'), '');
  await control('GET', `/workflow-jobs/${taken.id}?wait_for=completed`);
  const done = await call(job, { ...acme, job_id: taken.id }, 200, { token });
  assert.equal(done.conclusion, 'success');
  const run = { ...acme, run_id: taken.run_id };
  await call('GET /repos/{owner}/{repo}/actions/runs/{run_id}', run, 200, { token });
  await call('GET /repos/{owner}/{repo}/actions/runs/{run_id}/jobs', run, 200, { token, query: '?filter=latest' });
  const r2 = await call(minted, acme, 201, { token, body: { ...body, name: 'r2' } });
  await call('DELETE /repos/{owner}/{repo}/actions/runners/{runner_id}', { ...acme, runner_id: r2.runner.id }, 204, { token });

  const deliveries = 'GET /app/hook/deliveries';
  const [delivery] = await until('a delivery is recorded', async () => {
    const listed = await call(deliveries, {}, 200, { ...app, query: '?per_page=1&status=failure' });
    return listed.length > 0 && listed;
  });
  const it = { delivery_id: delivery.id };
  await call('GET /app/hook/deliveries/{delivery_id}', it, 200, app);
  await call('POST /app/hook/deliveries/{delivery_id}/attempts', it, 202, app);

  const missed = wanted.filter((route) => !driven.has(route));
  assert.deepEqual(missed, [], 'routes of routes.txt that nothing drove');

  // The check can fail: answers without a required property are noticed.
  for (const [route, parameters, options, property] of [
    ['GET /app', {}, app, 'owner'],
    [job, { ...acme, job_id: queued.id }, { token }, 'run_url'],
    [`${runners}`, acme, { token }, 'runners'],
    ['GET /user', {}, await signIn(), 'public_repos'],
  ]) {
    spoil = (answer) => ({ ...answer, [property]: undefined });
    await assert.rejects(call(route, parameters, 200, options), /must have required property/, `${route} without ${property}`);
    spoil = null;
  }
  console.log(`github-contract: ${driven.size} routes answer as GitHub's description says`);
}

/** Nothing, unless the process has ended: then what it said. */
function running(child) {
  if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended with ${child.exitCode}:\n${child.text}`);
  return null;
}

let code = 0;
try {
  await main();
} catch (error) {
  console.error(error);
  code = 1;
}
const ended = children.map((child) => child.exitCode !== null || new Promise((resolve) => child.once('exit', resolve)));
for (const child of children) child.kill('SIGKILL');
await Promise.all(ended);
fs.rmSync(folder, { recursive: true, force: true });
process.exit(code);
