// Cuts GitHub's OpenAPI description down to the routes the simulator has: node cut-description.mjs api.github.com.json
// (package/generated/api.github.com.json of npm @octokit/openapi). Writes github-api.json.
import fs from 'node:fs';

const routes = fs.readFileSync(new URL('routes.txt', import.meta.url), 'utf8').split('\n').filter(Boolean);
const whole = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const cut = {
  openapi: whole.openapi,
  info: { title: whole.info.title, version: whole.info.version, license: whole.info.license },
  servers: [{ url: 'http://127.0.0.1' }],
  // The description names no security; these routes want a bearer token, or the App's client id and secret.
  security: [{ bearer: [] }],
  paths: {},
  components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' }, basic: { type: 'http', scheme: 'basic' } } },
};

// Texts, examples and GitHub's extensions say nothing that can be checked. Names of properties are left alone.
const prose = new Set(['description', 'summary', 'example', 'examples', 'externalDocs', 'tags']);
const strip = (node, isMap) => {
  if (Array.isArray(node)) return node.map((item) => strip(item, false));
  if (!node || typeof node !== 'object') return node;
  const kept = Object.entries(node).filter(([key]) => isMap || !(prose.has(key) || key.startsWith('x-')));
  return Object.fromEntries(
    kept.map(([key, value]) => {
      const maps = !isMap && ['properties', 'schemas', 'responses', 'headers', 'parameters', 'content'].includes(key);
      return [key, key === 'enum' ? value : strip(value, maps)];
    }),
  );
};

const seen = new Set();
const follow = (node) => {
  if (Array.isArray(node)) return node.forEach(follow);
  if (!node || typeof node !== 'object') return;
  if (typeof node.$ref === 'string' && !seen.has(node.$ref)) {
    seen.add(node.$ref);
    const [, kind, group, name] = node.$ref.split('/');
    const target = strip(whole[kind][group][name], false);
    (cut[kind][group] ??= {})[name] = target;
    follow(target);
  }
  Object.values(node).forEach(follow);
};

// In the list, an installation's account is said to be a user *and* an enterprise at once, which GitHub's own example is
// not; everywhere else it is one of the two.
whole.paths['/app/installations'].get.responses[200].content['application/json'].schema.items.properties.account =
  whole.components.schemas.installation.properties.account;

for (const line of routes) {
  const [method, path] = line.split(' ');
  const { parameters, [method.toLowerCase()]: operation } = whole.paths[path] ?? {};
  if (!operation) throw new Error(`GitHub has no ${line}`);
  cut.paths[path] ??= parameters ? { parameters: strip(parameters, false) } : {};
  cut.paths[path][method.toLowerCase()] = {
    ...strip(operation, false),
    ...(path.startsWith('/applications/') ? { security: [{ basic: [] }] } : {}),
  };
}
follow(cut.paths);

// A response object needs a description to be valid; and GitHub's documentation tells clients to ask for another media
// type than its description lists.
const complete = (node) => {
  if (!node || typeof node !== 'object') return;
  for (const [key, value] of Object.entries(node)) {
    if (key === 'responses' && !Array.isArray(value)) {
      for (const response of Object.values(value)) if (!response.$ref) response.description ??= '';
    }
    if (value?.content?.['application/json']) {
      value.content['application/vnd.github+json'] = value.content['application/json'];
    }
    complete(value);
  }
};
complete(cut);
fs.writeFileSync(new URL('github-api.json', import.meta.url), `${JSON.stringify(cut, null, 1)}\n`);
