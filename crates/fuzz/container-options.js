// container-options.js NUMBER [SEED]: what must hold for any `options:` of a container, for so many of them. The hook itself is loaded, and
// nothing is started. Prints how many there were, and how many were refused.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const HOOK = path.join(__dirname, '../../deploy/job-script/gha-slurm-container-hook.js');

// The hook reads its settings beside itself, and writes there what it refuses.
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'container-options-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
fs.copyFileSync(HOOK, path.join(folder, 'hook.js'));
fs.writeFileSync(path.join(folder, 'podman.json'), JSON.stringify({ command: ['false'], environment: {}, volumes: [] }));
fs.writeFileSync = () => {};
const { OPTIONS, HEEDED, Failure, words, optionsOf, withVariables } = require(path.join(folder, 'hook.js'));

const [total, seed] = [Number(process.argv[2]), Number(process.argv[3] ?? Date.now() % 2 ** 32)];
assert(total > 0, 'say how many');

// mulberry32: the same inputs for the same seed.
let state = seed >>> 0;
function random(below) {
  state = (state + 0x6d2b79f5) >>> 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
}
const one = (list) => list[random(list.length)];

const NAMES = Object.keys(OPTIONS);
const FOREIGN = ['--privileged', '--cpus', '--network', '--mount', '--cgroups', '--log-driver', '--', '-', '---', '--env-file', '--volume-driver',
  '--__proto__', '--constructor', '__proto__', 'constructor', 'toString', '-v-', '--ENV', '--env ', '-ee', '-it', '--pid=host', '--security-opt'];
const PIECES = [' ', '  ', '\t', '\n', '=', '==', '"', "'", '\\', '\\\n', '$', '`', '$(id)', '%0A', '\0', 'é', '𝒳', '\ud800', 'a', 'A=1', '/', ':',
  '/host:/in', '1g', '-', '--', "'a b'", '"a b"', '"a\\"b"', ''];

function input() {
  let text = '';
  for (let count = random(9); count >= 0; count -= 1) {
    const kind = random(10);
    if (kind < 4) text += ` ${one(NAMES)}${one(['=', ' ', ' ', ''])}${one(PIECES)}`;
    else if (kind < 5) text += ` ${one(FOREIGN)}`;
    else if (kind < 9) text += one(PIECES);
    else text += String.fromCharCode(random(random(2) ? 128 : 65536));
  }
  return text;
}

let refused = 0;

async function check(text) {
  // What is quoted anew means the same.
  const split = words(text);
  assert.deepStrictEqual(words(split.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ')), split);
  let options;
  try {
    options = optionsOf(text);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    refused += 1;
    return;
  }
  // Names that are offered, each with its value and nothing else.
  const { args, variables } = options;
  for (let at = 0; at < args.length; at += 1) {
    assert(Object.hasOwn(OPTIONS, args[at]), `${args[at]} is not offered`);
    if (OPTIONS[args[at]]) {
      at += 1;
      assert(typeof args[at] === 'string', `${args[at - 1]} has no value`);
    }
  }
  // Variables that Podman heeds never reach it, and no value is an argument.
  const name = one([...split, 'CONTAINER_HOST', 'STORAGE_OPTS', 'PATH', 'HOME']);
  const value = one(['a secret', 'a\nsecret']);
  try {
    await withVariables({ ...variables, [name]: value }, (given, env) => {
      for (const reached of Object.keys(env)) assert(!HEEDED.test(reached) && !reached.includes('='), reached);
      assert(!given.includes(value));
    });
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  }
}

async function main() {
  for (let count = 0; count < total; count += 1) {
    const text = input();
    try {
      await check(text);
    } catch (error) {
      console.log(`seed ${seed}, input ${count}: ${JSON.stringify(text)}`);
      throw error;
    }
  }
  console.log(`${total} inputs, ${refused} refused, seed ${seed}`);
}

main();
