/**
 * Adapters as a model takes them, kept so that the next load neither folds nor turns them: web files
 * in float32, by the digest of the weights, the config, the model's inputs and the version that
 * prepared them. What is taken out is compared with the digests that it was written with.
 */

import { cachedPrepared, dropPrepared, keepPrepared } from './cache.js';
import { sha256 } from './digest.js';
import { LorakitError } from './errors.js';
import { toFloat32 } from './safetensors.js';
import { readWebFile, webHead } from './web_file.js';

/** Of this package: other versions may read, refuse or fold otherwise. */
export const VERSION = '0.1.0';

/**
 * What all that an adapter is prepared from comes down to.
 * @param {{weights: string, config?: Uint8Array, modules: import('./adapter.js').Module[]}} origin
 *   weights: the SHA-256 of the file; config: the bytes beside it, of a folder
 * @returns {Promise<string>}
 */
export function preparedKey({ weights, config = new Uint8Array(0), modules }) {
  const text = new TextEncoder().encode(`${JSON.stringify([VERSION, weights, modules])}\n`);
  const all = new Uint8Array(text.length + config.length);
  all.set(text);
  all.set(config, text.length);
  return sha256(all);
}

/** @param {string} key @returns {Promise<import('./adapter.js').Adapter | null>} null where there is none, or a damaged one */
export async function preparedAdapter(key) {
  const found = await cachedPrepared(key);
  if (!found) return null;
  try {
    return await readPrepared(found);
  } catch (error) {
    if (!(error instanceof LorakitError)) throw error;
    await dropPrepared(key);
    return null;
  }
}

/** @param {import('./cache.js').Entry} entry Throws LorakitError where it is damaged. */
async function readPrepared({ content, about: { head, digest } }) {
  if ((await sha256(content.subarray(0, head.length))) !== head.sha256)
    throw new LorakitError('the head is damaged', { code: 'source_mismatch' });
  const { deltas, base, baseName, name } = await readWebFile(content, 'a prepared adapter');
  const tensors = new Map(deltas.map(({ module, a, b, rank }) => [module, { a: toFloat32(a), b: toFloat32(b), rank }]));
  const rank = deltas.reduce((most, delta) => Math.max(most, delta.rank), 0);
  const values = toFloat32({ dtype: 'F32', data: content.subarray(head.length) });
  return { name, digest, base, baseName, rank, scale: 1, bytes: values.byteLength, tensors, values, warnings: [] };
}

/** Keep an adapter that was read. @returns {Promise<string>} why it could not be, or nothing */
export function keepAdapter(key, adapter) {
  return keepPrepared(key, async () => {
    const data = new Uint8Array(adapter.values.buffer);
    const own = `sha256:${await sha256(data)}`; // another than the adapter's, where that came in halves
    const content = webHead(adapter.tensors, { ...adapter, digest: own });
    const head = { length: content.length, sha256: await sha256(content) };
    return { parts: [content, data], facts: { head, digest: adapter.digest } };
  });
}
