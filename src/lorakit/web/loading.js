/**
 * An adapter for the inputs of a model: as it was prepared before, where its digest says what it is;
 * else fetched, read, and kept for the next time.
 */

import { CONFIG, LEFT_OUT, readAdapter } from './adapter.js';
import { keepAdapter, preparedKey } from './prepared.js';
import { throwIfAborted } from './queue.js';
import { fetchAdapter } from './sources.js';

/**
 * @param {object} config as fetchAdapter's options; or files by name as its path
 * @param {{modules: import('./adapter.js').Module[], name: string}} model
 * @returns {Promise<{adapter: import('./adapter.js').Adapter, kept: Promise<import('./sources.js').Warning[]>}>}
 *   kept: what could not be cached, which is known later than the adapter
 */
export async function loadAdapter(config, { modules, name }) {
  const { path, signal, cache = true } = config;
  if (path instanceof Map) return { adapter: await readAdapter(path, { modules, name }), kept: Promise.resolve([]) };
  const files = await fetchAdapter({ ...config, modules });
  throwIfAborted(signal);
  const { prepared, warnings } = files;
  const adapter = prepared ? { ...prepared, name, warnings } : await readAdapter(files, { modules, name });
  const whole = !adapter.warnings.some(({ code }) => code === LEFT_OUT); // else it is said each time
  if (!prepared && cache && files.digest && whole) {
    const key = await preparedKey({ weights: files.digest, config: files.get(CONFIG), modules });
    files.keep('what was prepared', keepAdapter(key, adapter));
  }
  return { adapter, kept: files.notKept() };
}
