/**
 * Adapter files that were fetched, kept by their SHA-256: in the Cache API, named `lorakit-adapters`,
 * where a page has one; elsewhere (Node, or a page that is neither https nor local) in the memory of
 * this process. `cachedAdapters` says which, and what is there; `clearCachedAdapters` empties it.
 *
 * Beside the files stands which of them an address gave last, under the hash of the address, for
 * when the network is away. A file is hashed again whenever it is taken out.
 */

import { canDigest, sha256 } from './digest.js';

const NAME = 'lorakit-adapters';
const ROOT = 'https://lorakit-adapters.invalid/'; // keys have to be addresses; nothing asks for them
const LIMITS = { memory: 256 << 20, cache: 1 << 30 }; // bytes; the oldest files go first
const ABOUT = 'x-lorakit-about';

/** @typedef {{bytes: number, source: string, time: number}} About source: where it came from, without secrets */

/** @param {string} digest 64 hex digits @returns {Promise<Uint8Array | null>} null where there is none, or a damaged one */
export async function cachedFile(digest) {
  const found = canDigest() ? await (await store()).read(`file/${digest}`) : null;
  if (!found) return null;
  if ((await sha256(found.content)) === digest) return found.content;
  await (await store()).remove(`file/${digest}`);
  return null;
}

/** The digest of what an address gave last, or null. @param {string} url */
export async function lastDigest(url) {
  const found = canDigest() ? await (await store()).read(await keyOf(url)) : null;
  return found && new TextDecoder().decode(found.content);
}

/**
 * Keep a file and that an address gave it.
 * @param {Uint8Array} content @param {{digest: string, url: string, source: string}} facts
 * @returns {Promise<string>} why it could not be kept, or nothing
 */
export async function keepFile(content, { digest, url, source }) {
  try {
    const kept = await store();
    await makeRoom(kept, content.length);
    const time = Date.now();
    await kept.write(`file/${digest}`, content, { bytes: content.length, source, time });
    await kept.write(await keyOf(url), new TextEncoder().encode(digest), { bytes: digest.length, source, time });
    return '';
  } catch (error) {
    return String(error?.message ?? error);
  }
}

/**
 * What is cached, and where.
 * @returns {Promise<{where: string, bytes: number, files: (About & {digest: string})[]}>}
 */
export async function cachedAdapters() {
  const kept = await store();
  const files = await listed(kept);
  return { where: kept.where, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0), files };
}

/** Forget every adapter file. */
export async function clearCachedAdapters() {
  await (await store()).clear();
}

async function listed(kept) {
  const found = [];
  for (const key of await kept.keys()) {
    const file = key.startsWith('file/') ? await kept.about(key) : null;
    if (file) found.push({ digest: key.slice('file/'.length), ...file });
  }
  return found.sort((x, y) => x.time - y.time);
}

async function makeRoom(kept, wanted) {
  const files = await listed(kept);
  let left = kept.limit - wanted - files.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const { digest, bytes } of files) {
    if (left >= 0) return;
    await kept.remove(`file/${digest}`);
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

  async write(key, content, about) {
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
    return response ? { content: new Uint8Array(await response.arrayBuffer()) } : null;
  }

  async about(key) {
    const response = await this.cache.match(ROOT + key);
    return response ? JSON.parse(decodeURIComponent(response.headers.get(ABOUT))) : null;
  }

  async write(key, content, about) {
    const headers = { [ABOUT]: encodeURIComponent(JSON.stringify(about)) };
    await this.cache.put(ROOT + key, new Response(content, { headers }));
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
