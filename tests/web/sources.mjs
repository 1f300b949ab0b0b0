// JSON in: fetches, one after the other; JSON out: what each gave, and what is cached then.
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { fakeCaches } from './caches.mjs';

const [, , web, given, out] = process.argv;
const { steps, cacheApi, base } = JSON.parse(readFileSync(given, 'utf8'));
if (cacheApi) globalThis.caches = fakeCaches();
const [{ fetchAdapter }, { cachedAdapters, clearCachedAdapters }, { readAdapter }, { parseReference }] = await Promise.all(
  ['sources', 'cache', 'adapter', 'reference'].map((name) => import(pathToFileURL(`${web}/${name}.js`).href)),
);

/** What a page may give instead of an address. */
function pathOf({ path, files }) {
  if (!files) return path;
  return files.map(({ name, relative, at }) => {
    const file = new File([readFileSync(at)], name);
    return relative ? Object.defineProperty(file, 'webkitRelativePath', { value: relative }) : file;
  });
}

/** A body that ends early, as a runtime gives it that does not compare lengths. */
async function shortened(length, asked) {
  const response = await fetch(...asked);
  const body = (await response.arrayBuffer()).slice(0, length);
  return new Response(body, { headers: { 'Content-Length': '138056' } });
}

async function fetched(step) {
  const events = [];
  const controller = new AbortController();
  const progress = (event) => {
    events.push(event);
    if (step.abortAt !== undefined && event.loaded >= step.abortAt) controller.abort();
    if (step.raiseAt !== undefined && event.loaded >= step.raiseAt) throw new RangeError('enough');
  };
  const offline = { fetch: () => Promise.reject(new TypeError('fetch failed')) };
  if (step.aborted) controller.abort();
  try {
    const short = step.short ? { fetch: (...asked) => shortened(step.short, asked) } : {};
    const options = { ...step.options, ...(step.offline ? offline : {}), ...short, progress, signal: controller.signal };
    const files = await fetchAdapter({ path: pathOf(step), ...options });
    const { rank } = step.read === false ? {} : await readAdapter(files);
    return { files: [...files.keys()], name: files.name, warnings: files.warnings, rank, events };
  } catch (error) {
    const { name, code, message, hint, items } = error;
    return { error: name, code, message, hint, items, events };
  }
}

const damage = async () => {
  for (const entries of globalThis.caches.stores.values())
    for (const [key, response] of entries) {
      const bytes = new Uint8Array(await response.arrayBuffer());
      bytes[bytes.length - 1] ^= 1;
      entries.set(key, new Response(bytes, { headers: response.headers }));
    }
};
const actions = { clear: clearCachedAdapters, damage };
const answers = [];
for (const step of steps) {
  if (step.action) await actions[step.action]();
  else if (step.parse) answers.push(parsed(step.parse));
  else answers.push(await fetched(step));
}
writeFileSync(out, JSON.stringify({ answers, cached: await cachedAdapters() }));

function parsed([path, source]) {
  try {
    return parseReference(path, source, { base });
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}
