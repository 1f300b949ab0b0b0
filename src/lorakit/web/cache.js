/**
 * Adapter files that were fetched, kept by their SHA-256: in the Cache API, named `lorakit-adapters`,
 * where a page has one; elsewhere (Node, or a page that is neither https nor local) in the memory of
 * this process. `cachedAdapters` says which, and what is there; `clearCachedAdapters` empties it.
 *
 * Beside the files stands which of them an address gave last, under the hash of the address, for
 * when the network is away, and what prepared.js makes of them. A file is hashed again whenever it
 * is taken out. Writing is slow and nobody waits for it: one entry after the other, behind the page.
 */

import { canDigest, sha256 } from './digest.js';

const NAME = 'lorakit-adapters';
const ROOT = 'https://lorakit-adapters.invalid/'; // keys have to be addresses; nothing asks for them
const LIMITS = { memory: 256 << 20, cache: 1 << 30 }; // bytes; the oldest files go first
const ABOUT = 'x-lorakit-about';

/**
 * @typedef {{bytes: number, source: string, time: number}} About source: where it came from, without secrets
 * @typedef {{content: Uint8Array, about: About & {[fact: string]: any}}} Entry
 */

const [FILE, PREPARED] = ['file/', 'prepared/'];
/** @type {Map<string, Promise<string>>} what is being written, by key */
const writing = new Map();
let last = Promise.resolve('');

/** @param {string} digest 64 hex digits @returns {Promise<Uint8Array | null>} null where there is none, or a damaged one */
export async function cachedFile(digest) {
  const found = canDigest() ? await read(FILE + digest) : null;
  if (!found) return null;
  if ((await sha256(found.content)) === digest) return found.content;
  await (await store()).remove(FILE + digest);
  return null;
}

/** The digest of what an address gave last, or null. @param {string} url */
export async function lastDigest(url) {
  if (!canDigest()) return null;
  await writing.get(url);
  const found = await read(await keyOf(url));
  return found && new TextDecoder().decode(found.content);
}

/**
 * Keep a file and that an address gave it.
 * @param {Uint8Array} content @param {{digest: string, url: string, source: string}} facts
 * @returns {Promise<string>} why it could not be kept, or nothing
 */
export function keepFile(content, { digest, url, source }) {
  return behind([FILE + digest, url], async () => {
    await write(FILE + digest, [content], { source });
    await write(await keyOf(url), [new TextEncoder().encode(digest)], { source });
  });
}

/** What was prepared under a key, unchecked, or null. @returns {Promise<Entry | null>} */
export function cachedPrepared(key) {
  return read(PREPARED + key);
}

/**
 * Keep what `make` gives: its parts, and facts that are to come back with them.
 * @param {string} key @param {() => Promise<{parts: Uint8Array[], facts: object}>} make
 * @returns {Promise<string>} why it could not be kept, or nothing
 */
export function keepPrepared(key, make) {
  return behind([PREPARED + key], async () => {
    const { parts, facts } = await make();
    await write(PREPARED + key, parts, { source: '', ...facts });
  });
}

export async function dropPrepared(key) {
  await (await store()).remove(PREPARED + key);
}

/**
 * What is cached, and where. bytes: of all, with what was prepared of the files.
 * @returns {Promise<{where: string, bytes: number, files: (About & {digest: string})[]}>}
 */
export async function cachedAdapters() {
  await last;
  const kept = await store();
  const all = await listed(kept);
  const bytes = all.reduce((sum, entry) => sum + entry.bytes, 0);
  const files = all.filter(({ key }) => key.startsWith(FILE)).map(({ key, ...about }) => ({ digest: key.slice(FILE.length), ...about }));
  return { where: kept.where, bytes, files };
}

/** Forget every adapter file. */
export async function clearCachedAdapters() {
  await last;
  await (await store()).clear();
}

/** When all is written that is to be kept. */
export function written() {
  return last;
}

async function read(key) {
  await writing.get(key);
  return (await store()).read(key);
}

/** Do it when all is done that came before; who reads one of the keys meanwhile waits for it. */
function behind(keys, task) {
  const done = last.then(task).then(() => '', (error) => String(error?.message ?? error));
  for (const key of keys) writing.set(key, done);
  last = done.then((fault) => {
    for (const key of keys) if (writing.get(key) === done) writing.delete(key);
    return fault;
  });
  return done;
}

async function write(key, parts, facts) {
  const kept = await store();
  const bytes = parts.reduce((sum, { length }) => sum + length, 0);
  await makeRoom(kept, bytes);
  await kept.write(key, parts, { bytes, time: Date.now(), ...facts });
}

/** Files and what was prepared, the oldest first. */
async function listed(kept) {
  const found = [];
  for (const key of await kept.keys()) {
    const about = key.startsWith(FILE) || key.startsWith(PREPARED) ? await kept.about(key) : null;
    if (about) found.push({ key, ...about });
  }
  return found.sort((x, y) => x.time - y.time);
}

async function makeRoom(kept, wanted) {
  const all = await listed(kept);
  let left = kept.limit - wanted - all.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const { key, bytes } of all) {
    if (left >= 0) return;
    await kept.remove(key);
    left += bytes;
  }
}

async function keyOf(url) {
  return `address/${await sha256(new TextEncoder().encode(url))}`;
}

const memory = new Map();

async function store() {
  if (typeof caches === 'undefined') return new MemoryStore(memory);
  return new CacheStore(await caches.open(NAME));
}

class MemoryStore {
  constructor(entries) {
    this.entries = entries;
    this.where = 'the memory of this process';
    this.limit = LIMITS.memory;
  }

  async read(key) {
    return this.entries.get(key) ?? null;
  }

  async about(key) {
    return this.entries.get(key).about;
  }

  async write(key, parts, about) {
    const content = parts.length === 1 ? parts[0] : new Uint8Array(await new Blob(parts).arrayBuffer());
    this.entries.set(key, { content, about });
  }

  async keys() {
    return [...this.entries.keys()];
  }

  async remove(key) {
    this.entries.delete(key);
  }

  async clear() {
    this.entries.clear();
  }
}

class CacheStore {
  /** @param {Cache} cache */
  constructor(cache) {
    this.cache = cache;
    this.where = `the Cache API: ${NAME}`;
    this.limit = LIMITS.cache;
  }

  async read(key) {
    const response = await this.cache.match(ROOT + key);
    return response ? { content: new Uint8Array(await response.arrayBuffer()), about: aboutOf(response) } : null;
  }

  async about(key) {
    const response = await this.cache.match(ROOT + key);
    return response ? aboutOf(response) : null;
  }

  async write(key, parts, about) {
    const headers = { [ABOUT]: encodeURIComponent(JSON.stringify(about)) };
    await this.cache.put(ROOT + key, new Response(new Blob(parts), { headers }));
  }

  async keys() {
    return (await this.cache.keys()).map(({ url }) => url.slice(ROOT.length));
  }

  async remove(key) {
    await this.cache.delete(ROOT + key);
  }

  async clear() {
    await caches.delete(NAME);
  }
}

function aboutOf(response) {
  return JSON.parse(decodeURIComponent(response.headers.get(ABOUT)));
}
