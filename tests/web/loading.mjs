// JSON in: loads for a model's inputs, one after the other, and what becomes of the cache between them; JSON out: what each gave.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { fakeCaches } from './caches.mjs';

const [, , web, given, out] = process.argv;
const { steps } = JSON.parse(readFileSync(given, 'utf8'));
const [{ loadAdapter }, { written, cachedAdapters }] = await Promise.all(
  ['loading', 'cache'].map((name) => import(pathToFileURL(`${web}/${name}.js`).href)),
);
globalThis.caches = fakeCaches();

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength);

/** Everything that a model takes of an adapter. */
function taken({ tensors, values, rank, digest, base, baseName, name, scale, bytes, warnings }) {
  const hash = createHash('sha256');
  for (const [module, factors] of tensors) {
    hash.update(`${module} ${factors.rank}\n`);
    for (const part of ['a', 'b']) hash.update(bytesOf(factors[part]));
  }
  const all = createHash('sha256').update(bytesOf(values)).digest('hex');
  return { tensors: hash.digest('hex'), all, rank, digest, base, baseName, name, scale, bytes, warnings };
}

async function load({ path, options, modules, name = 'a' }) {
  try {
    const { adapter, kept } = await loadAdapter({ path, ...options }, { modules, name });
    return { ...taken(adapter), kept: await kept };
  } catch (error) {
    return { code: error.code ?? error.stack };
  }
}

const prepared = () => [...globalThis.caches.stores.values()].flatMap((entries) => [...entries].filter(([key]) => key.includes('/prepared/')).map(([key]) => [entries, key]));
const change = (edit) => async () => {
  for (const [entries, key] of prepared()) {
    const response = entries.get(key);
    entries.set(key, new Response(edit(new Uint8Array(await response.arrayBuffer())), { headers: response.headers }));
  }
};
const actions = {
  data: change((bytes) => bytes.with(bytes.length - 1, bytes.at(-1) ^ 1)),
  head: change((bytes) => Buffer.from(Buffer.from(bytes).toString('latin1').replace('"base_name":"f', '"base_name":"g'), 'latin1')),
  files: async () => {
    for (const entries of globalThis.caches.stores.values()) for (const key of entries.keys()) if (key.includes('/file/')) entries.delete(key);
  },
  short: change((bytes) => bytes.subarray(0, bytes.length / 2)),
  full: async () => {
    const { open } = globalThis.caches;
    globalThis.caches.open = async (store) => ({ ...(await open(store)), put: async () => Promise.reject(new Error('no room')) });
  },
};

const answers = [];
for (const { action, ...step } of steps) {
  if (action) await actions[action]();
  else answers.push(await load(step));
  await written();
}
const { files, bytes } = await cachedAdapters();
writeFileSync(out, JSON.stringify({ answers, prepared: prepared().length, files: files.length, bytes }));
