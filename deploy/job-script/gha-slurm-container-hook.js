// gha-slurm container hook: `container:`, `services:` and `uses: docker://…` of a workflow job by rootless Podman, inside the
// Slurm job. The job script writes it to the node where the site has [runner.podman], and the runner calls it with its own
// Node.js (16 or newer): https://github.com/actions/runner-container-hooks. A command comes as JSON on standard input.
//
// Beside it lie podman.json, {"command": [...], "environment": {...}, "volumes": [...]}: how Podman is called, and what
// each container sees of the node besides the runner's own folders; and, once it refused something, `refused`, the reason.
//
// All containers of a workflow job share one network, which takes neither a bridge nor DNS of the node: a service is reached
// by its name, at the port it listens on. Without a job container, its ports are published on the node's 127.0.0.1.
// There are no cgroups of Podman's: all of it stays in the Slurm job's.
'use strict';
const { spawn } = require('node:child_process');
const { randomUUID } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');

const PULLS = 3;
const HEALTH_DEADLINE_S = 300; // most that a service is waited for
// The two variables are how the job script and the epilog find processes that are left.
const ALWAYS = [
  '--cgroups=disabled', '--security-opt=label=disable', '--log-driver=k8s-file', '--env', 'GHA_SLURM_LAUNCH', '--env', 'SLURM_JOB_ID',
];
// What `options:` may have; true: it takes a value. The rest is refused, as it would be ignored or do something else here.
const OPTIONS = {
  '--env': true, '-e': true, '--entrypoint': true, '--label': true, '-l': true, '--user': true, '-u': true, '--group-add': true,
  '--workdir': true, '-w': true, '--volume': true, '-v': true, '--tmpfs': true, '--shm-size': true, '--ulimit': true,
  '--read-only': false, '--cap-add': true, '--cap-drop': true, '--device': true, '--no-healthcheck': false,
  '--health-cmd': true, '--health-interval': true, '--health-retries': true, '--health-start-period': true, '--health-timeout': true,
};
// Variables that Podman, what it calls, Go or the dynamic loader would heed.
const HEEDED = new RegExp(`^(${[
  'PATH', 'HOME', 'USER', 'SHELL', 'TMPDIR', 'TZ', 'LANG', 'LC_.*', 'XDG_.*', 'LD_.*', 'GLIBC_.*', 'MALLOC_.*', 'GCONV_PATH', 'GO[A-Z]*',
  '_?CONTAINERS?_.*', 'PODMAN_.*', 'BUILDAH_.*', 'STORAGE_.*', 'DOCKER_.*', 'REGISTRY_.*', 'NETAVARK_.*', 'CRUN_.*', 'SSL_CERT_.*',
  'APPTAINER.*', 'SINGULARITY.*', '[A-Z]*_PROXY', 'DISABLE_HC_SYSTEMD', 'DBUS_.*', 'LISTEN_.*', 'NOTIFY_SOCKET', 'GHA_SLURM_.*', 'SLURM_.*',
].join('|')})$`, 'i');
const LONGEST_LINE = 60_000; // of a file of variables: Podman reads 64 KiB at most

const here = __dirname;
const settings = JSON.parse(fs.readFileSync(path.join(here, 'podman.json'), 'utf8'));

class Failure extends Error {}

/** What the site does not offer; the job script tells token-broker. */
class Refusal extends Failure {
  constructor(what, instead) {
    super(`${what}. ${instead}`);
    fs.writeFileSync(path.join(here, 'refused'), `${what}\n`);
  }
}

/** Runs Podman with the site's environment, and what is in `env` besides, which must be nothing that Podman heeds; its code and what it printed, which goes to the log unless `quiet`. */
function podman(args, { env = {}, quiet = false, input = '', mark } = {}) {
  return new Promise((resolve, reject) => {
    const [program, ...first] = settings.command;
    const environment = { ...env, ...settings.environment };
    const stdio = quiet ? ['pipe', 'pipe', 'pipe'] : ['pipe', 'inherit', 'inherit'];
    const child = spawn(program, [...first, ...args], { env: environment, stdio });
    let printed = '';
    let errors = '';
    child.stdout?.on('data', (data) => (printed += data));
    child.stderr?.on('data', (data) => (errors += data));
    child.stdin.on('error', () => {}); // it need not read
    child.stdin.end(input);
    child.on('error', (error) =>
      reject(new Failure(error.code === 'ENOENT' ? `there is no ${program} on this node` : `${program}: ${error.message}`)));
    // `exec` passes no signal on, so the runner's cancellation goes to the processes inside by hand.
    const forward = (signal) => mark && signalAll(mark, signal === 'SIGINT' ? 'SIGINT' : 'SIGKILL');
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, forward);
    child.on('close', (code) => {
      for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, forward);
      resolve({ code: code ?? 255, printed: printed.trim(), errors: errors.trim() });
    });
  });
}

/** Podman must succeed; what it printed. */
async function must(what, args, options) {
  const { code, printed, errors } = await podman(args, { quiet: true, ...options });
  if (code !== 0) throw new Failure(`${what}: ${errors || printed || `podman ended with ${code}`}`);
  return printed;
}

/** Every process that was started with `mark` in its environment. */
function signalAll(mark, signal) {
  for (const pid of fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(mark)) process.kill(Number(pid), signal);
    } catch {
      // It ended, or it is somebody else's.
    }
  }
}

/** What `use` returns, called with the arguments, and the variables of Podman's own process, that give a container these variables.
 * Values are secret, and arguments are for everybody to see. Names come from a workflow, and Podman heeds many: so they go into a file
 * for --env-file, which lasts as long as the call. It has a variable in each line; what does not fit goes through the process. */
async function withVariables(variables, use) {
  const file = path.join(here, `variables.${randomUUID()}`);
  const args = ['--env-file', file];
  const env = {};
  let lines = '';
  for (const [name, value] of Object.entries(variables ?? {})) {
    if (!/^[^\s=*#][^\s=*]*$/.test(name)) continue;
    const text = value ?? '';
    if (!/[\r\n]/.test(text) && Buffer.byteLength(`${name}=${text}`) < LONGEST_LINE) {
      lines += `${name}=${text}\n`;
    } else if (HEEDED.test(name)) {
      throw new Refusal(`the variable ${name} is too long, or has more than one line`, 'Podman would take it for its own: give it another name.');
    } else {
      args.push('--env', name);
      env[name] = text;
    }
  }
  fs.writeFileSync(file, lines, { mode: 0o600, flag: 'wx' });
  try {
    return await use(args, env);
  } finally {
    fs.rmSync(file, { force: true });
  }
}

/** Words as a shell splits them; nothing is expanded. The runner joins arguments that it quoted, then cuts at each blank. */
function words(text) {
  const found = [];
  let word = null;
  for (const [piece, single, double, escaped, blank] of text.matchAll(/'([^']*)'|"((?:[^"\\]|\\[^])*)"|\\([^])|(\s+)|[^]/g)) {
    if (blank !== undefined) {
      if (word !== null) found.push(word);
      word = null;
    } else {
      word = (word ?? '') + (single ?? double?.replace(/\\(["\\$`])/g, '$1') ?? escaped ?? piece);
    }
  }
  if (word !== null) found.push(word);
  return found;
}

const argumentsOf = (list) => words((list ?? []).join(' '));

/** `options:`, checked: arguments, and variables. */
function optionsOf(text) {
  const given = words(text ?? '');
  const checked = [];
  const variables = {};
  while (given.length > 0) {
    const [, name, value] = /^(--?[^=]*)(?:=([^]*))?$/.exec(given.shift()) ?? [];
    if (!Object.hasOwn(OPTIONS, name ?? '')) {
      throw new Refusal(`options: ${name ?? text} is not offered for containers on this cluster`,
        `Offered are ${Object.keys(OPTIONS).join(' ')}; CPUs, memory and time are the Slurm job's: ask for them by labels.`);
    }
    if (!OPTIONS[name]) {
      checked.push(name);
    } else {
      const of = value ?? given.shift();
      if (of === undefined) throw new Failure(`options: ${name} has no value`);
      if (name === '--env' || name === '-e') {
        // Without a value: that of whoever calls Podman, here the runner.
        const [, variable, text] = /^([^=]*)(?:=([^]*))?$/.exec(of);
        const inherited = text ?? process.env[variable];
        if (inherited !== undefined) variables[variable] = inherited;
      } else {
        checked.push(name, of);
      }
    }
  }
  return { args: checked, variables };
}

function volumesOf(container) {
  const args = settings.volumes.flatMap((volume) => ['--volume', volume]);
  for (const mount of [...(container.userMountVolumes ?? []), ...(container.systemMountVolumes ?? [])]) {
    const { sourceVolumePath: source, targetVolumePath: target, readOnly } = mount;
    if (source === '/var/run/docker.sock' && !(container.userMountVolumes ?? []).includes(mount)) continue;
    if (source?.endsWith('/docker.sock')) {
      throw new Refusal(`volumes: ${source} is not offered: there is no Docker on this cluster`, 'Build images elsewhere.');
    }
    // Where a script is, Podman is too: the runner's own folders can be symlinks.
    const real = source?.startsWith('/') && fs.existsSync(source) ? fs.realpathSync(source) : source;
    args.push('--volume', real ? `${real}:${target}${readOnly ? ':ro' : ''}` : target);
  }
  return args;
}

// [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]. Anything else could be an option of Podman, or a path.
const REFERENCE =
  /^((\[[0-9a-f:]+\]|[a-z0-9][a-z0-9.-]*)(:\d+)?\/)?[a-z0-9]+([._-]+[a-z0-9]+)*(\/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:\w[\w.-]{0,127})?(@[a-z0-9]+([+._-][a-z0-9]+)*:[0-9a-f]{32,})?$/i;

/** As Docker reads a name: `redis` is docker.io/library/redis. */
function fullName(named) {
  const image = named.replace(/^docker:\/\//, '');
  if (!REFERENCE.test(image)) {
    throw new Refusal(`${JSON.stringify(named)} is no name of an image`, 'Write [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST].');
  }
  const [first, ...rest] = image.split('/');
  if (rest.length > 0 && (/[.:]/.test(first) || first === 'localhost')) return image;
  return rest.length > 0 ? `docker.io/${image}` : `docker.io/library/${image}`;
}

/** Fetches an image, unless it is there already (in an additional image store of the site's). */
async function pull(container) {
  const image = fullName(container.image);
  if ((await podman(['image', 'exists', image], { quiet: true })).code === 0) return image;
  const { username, password, serverUrl } = container.registry ?? {};
  const login = path.join(here, `login.${randomUUID()}.json`);
  const args = ['pull', '--quiet'];
  if (username && password) {
    const server = (serverUrl || image).replace(/^https?:\/\//, '').split('/')[0].replace('index.docker.io', 'docker.io');
    const auth = Buffer.from(`${username}:${password}`).toString('base64');
    fs.writeFileSync(login, JSON.stringify({ auths: { [server]: { auth } } }), { mode: 0o600 });
    args.push('--authfile', login);
  }
  console.log(`Pulling ${image}`);
  try {
    for (let attempt = 1; ; attempt++) {
      const { code, errors } = await podman([...args, image], { quiet: true });
      if (code === 0) return image;
      if (attempt === PULLS) throw new Failure(`cannot pull ${image}: ${errors}${hint(errors)}`);
      await sleep(2 ** attempt);
    }
  } finally {
    fs.rmSync(login, { force: true });
  }
}

/** What an administrator must do about an error that every cluster sees first. */
function hint(errors) {
  return /insufficient UIDs or GIDs|subuid|newuidmap/.test(errors)
    ? ' (an administrator must give this user a range in /etc/subuid and /etc/subgid of the node, or let Podman do with one user: see docs/slurm.md)'
    : '';
}

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Creates and starts a container; its id. */
async function start(name, container, image, { network, entrypoint, args = [] }) {
  const options = optionsOf(container.createOptions);
  const printed = await withVariables({ ...options.variables, ...container.environmentVariables }, (variables, env) => {
    const create = [
      'create', '--name', name, ...ALWAYS, ...network, ...options.args, ...variables, ...volumesOf(container),
      ...(container.workingDirectory ? ['--workdir', container.workingDirectory] : []),
      ...(entrypoint ? ['--entrypoint', entrypoint] : []), image, ...args,
    ];
    return must(`cannot create a container of ${image}`, create, { env });
  });
  const id = printed.split('\n').pop();
  await must(`cannot start a container of ${image}`, ['start', id]);
  return id;
}

const inspect = (id, format) => must(`cannot look at ${id}`, ['inspect', '--format', format, id]);

/** Waits until a service is healthy, if it says how to find out. */
async function untilHealthy(id, name) {
  const checked = await inspect(id, '{{if .Config.Healthcheck}}yes{{end}}');
  const until = Date.now() + HEALTH_DEADLINE_S * 1000;
  for (let pause = 0.5; ; pause = Math.min(2 * pause, 10)) {
    const running = (await inspect(id, '{{.State.Running}}')) === 'true';
    if (running && (checked === '' || (await podman(['healthcheck', 'run', id], { quiet: true })).code === 0)) return;
    if (!running || Date.now() > until) {
      const { printed, errors } = await podman(['logs', '--tail', '50', id], { quiet: true });
      console.log(`${printed}\n${errors}`);
      throw new Failure(`the service ${name} ${running ? `is not healthy after ${HEALTH_DEADLINE_S} s` : 'has ended'}`);
    }
    await sleep(pause);
  }
}

/** A port as `ports:` writes it: {host, port, protocol}. */
function portOf(text) {
  const [, host, port, protocol = 'tcp'] = /^(?:(\d+):)?(\d+)(?:\/(tcp|udp))?$/.exec(text) ?? [];
  if (port === undefined) throw new Refusal(`ports: ${text} is not offered on this cluster`, 'Write a port, or host:container.');
  return { host, port, protocol };
}

async function prepareJob({ container, services }) {
  const job = container?.image ? container : null;
  const all = (services ?? []).map((service) => ({ ...service, name: service.contextName, ports: (service.portMappings ?? []).map(portOf) }));
  if (!job && all.length === 0) return { isAlpine: false };
  // Before anything is fetched.
  for (const one of [...(job ? [job] : []), ...all]) {
    fullName(one.image);
    optionsOf(one.createOptions);
    volumesOf(one);
  }
  // Whoever starts first has the network; the others join it.
  const owner = all.filter(({ name }) => name).flatMap(({ name }) => ['--add-host', `${name}:127.0.0.1`]);
  if (!job) {
    for (const { host = '', port, protocol } of all.flatMap(({ ports }) => ports)) owner.push('--publish', `127.0.0.1:${host}:${port}/${protocol}`);
  }
  let first = null;
  const network = () => (first ? [`--network=container:${first}`] : owner);
  const answer = { state: {}, context: { services: [] }, isAlpine: false };
  if (job) {
    first = await start('job', job, await pull(job), { network: network(), entrypoint: 'tail', args: ['-f', '/dev/null'] });
    const environment = JSON.parse(await inspect(first, '{{json .Config.Env}}')) ?? [];
    const searched = environment.find((pair) => pair.startsWith('PATH='))?.slice('PATH='.length);
    answer.state = { container: first, path: searched ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' };
    answer.context.container = { id: first, network: `container:${first}` };
    const alpine = ['exec', first, 'sh', '-c', 'grep -qsi "^ID=.*alpine" /etc/os-release'];
    answer.isAlpine = (await podman(alpine, { quiet: true })).code === 0;
  }
  const ids = [];
  for (const [index, service] of all.entries()) {
    const entrypoint = service.entryPoint || undefined;
    const args = argumentsOf(service.entryPointArgs);
    const image = await pull(service);
    const id = await start(`service-${index}`, service, image, { network: network(), entrypoint, args });
    first ??= id;
    ids.push(id);
  }
  const published = new Map();
  if (!job) {
    for (const line of (await must('cannot read the published ports', ['port', first])).split('\n')) {
      const [, port, at] = /^(\d+)\/\w+ -> .*:(\d+)$/.exec(line) ?? [];
      if (port) published.set(port, at);
    }
  }
  for (const [index, { name, image, ports }] of all.entries()) {
    console.log(`Waiting for ${name ?? image}`);
    await untilHealthy(ids[index], name ?? image);
    const seen = ports.map(({ port }) => [port, published.get(port) ?? port]);
    answer.context.services.push({ id: ids[index], network: `container:${first}`, ports: Object.fromEntries(seen) });
  }
  answer.state.network = `container:${first}`;
  answer.state.services = ids;
  return answer;
}

/** The variables of a step, with PATH as the step wants it. */
function stepVariables({ environmentVariables, prependPath }, searched) {
  const before = Array.isArray(prependPath) ? prependPath.join(':') : prependPath;
  return { ...environmentVariables, ...(before && searched ? { PATH: `${before}:${searched}` } : {}) };
}

/** By which the processes of a step are found. */
const newMark = () => `GHA_SLURM_STEP=${randomUUID()}`;

async function runScriptStep(step, state) {
  if (!state?.container) throw new Failure('there is no job container for this step');
  const mark = newMark();
  const { code } = await withVariables(stepVariables(step, state.path), (variables, env) => {
    const run = [
      'exec', '--interactive', '--workdir', step.workingDirectory, ...variables, '--env', mark, state.container, step.entryPoint,
      ...argumentsOf(step.entryPointArgs),
    ];
    return podman(run, { env, mark });
  });
  process.exitCode = code;
}

async function runContainerStep(step, state) {
  if (!step.image) {
    throw new Refusal('actions that build a container image are not offered on this cluster',
      'Use one that names a published image (docker://…), or run its program in a step.');
  }
  const image = await pull(step);
  const mark = newMark();
  const options = optionsOf(step.createOptions);
  const { code } = await withVariables({ ...options.variables, ...stepVariables(step) }, (variables, env) => {
    const run = [
      'run', '--rm', ...ALWAYS, '--env', mark, ...(state?.network ? [`--network=${state.network}`] : []), ...options.args, ...variables,
      ...volumesOf(step),
      ...(step.workingDirectory ? ['--workdir', step.workingDirectory] : []),
      ...(step.entryPoint ? ['--entrypoint', step.entryPoint] : []), image, ...argumentsOf(step.entryPointArgs),
    ];
    return podman(run, { env, mark });
  });
  process.exitCode = code;
}

async function main() {
  const { command, responseFile, args, state } = JSON.parse(fs.readFileSync(0, 'utf8'));
  switch (command) {
    case 'prepare_job': {
      const answer = await prepareJob(args ?? {});
      fs.writeFileSync(responseFile, JSON.stringify(answer));
      break;
    }
    case 'run_script_step':
      await runScriptStep(args, state);
      break;
    case 'run_container_step':
      await runContainerStep(args, state);
      break;
    case 'cleanup_job':
      // Twice: the one that has the network goes after the others.
      await podman(['rm', '--force', '--all', '--time', '0'], { quiet: true });
      await must('cannot remove the containers', ['rm', '--force', '--all', '--time', '0']);
      break;
    default:
      throw new Failure(`unknown command ${command}`);
  }
}

if (require.main === module) {
  main().catch((error) => {
    const title = error instanceof Refusal ? 'Refused by the cluster' : 'Containers on the cluster';
    const text = error instanceof Failure ? error.message : error.stack;
    console.log(`::error title=${title}::${text.replaceAll('%', '%25').replaceAll('\r', '').replaceAll('\n', '%0A')}`);
    process.exitCode = 1;
  });
} else {
  module.exports = { OPTIONS, HEEDED, Failure, words, optionsOf, fullName, withVariables };
}
