// Succeeds when node_modules holds what package-lock.json asks for.
import fs from 'node:fs';

const read = (name) => JSON.parse(fs.readFileSync(new URL(name, import.meta.url), 'utf8')).packages;
try {
  const wanted = read('package-lock.json');
  const present = read('node_modules/.package-lock.json');
  const differs = Object.keys(wanted).some((name) => name && !wanted[name].optional && wanted[name].version !== present[name]?.version);
  process.exit(differs ? 1 : 0);
} catch {
  process.exit(1);
}
