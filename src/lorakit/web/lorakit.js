/**
 * lorakit in the browser: a base model in a page, and LoRA adapters that swap while it runs.
 *
 *     import { open } from 'lorakit';
 *     const model = await open('/models/demo/');
 *     const home = await model.load('/adapters/home/');
 *     await home.apply();
 *     const reply = await model.chat([{ role: 'user', content: 'turn the lights off' }], { tools });
 */

import { openModel } from './model.js';
import { openRemote } from './remote.js';

export { FORMATS, detectFormat, getFormat, parseReply } from './calls.js';
export { cachedAdapters, clearCachedAdapters } from './cache.js';
export { LorakitError } from './errors.js';
export { LoadedAdapter } from './adapters.js';
export { Model } from './model.js';

/**
 * Open a model: an export of lorakit's, or any decoder for transformers.js (as a base alone).
 *
 * It runs in a worker, unless `worker` is false or `transformers` is a module, which cannot be sent
 * to one: a worker of your own that calls `serve(self, { transformers })` can be given instead.
 * @param {string} source a path or an address of a folder, or hf:org/repo[@revision]
 * @param {import('./lorakit.d.ts').OpenOptions} [options]
 * @returns {Promise<import('./lorakit.d.ts').Model>}
 */
export function open(source, options = {}) {
  const module = typeof options.transformers === 'object' && options.transformers !== null;
  const { worker = !module && typeof Worker !== 'undefined' } = options;
  return worker ? openRemote(source, { ...options, worker }) : openModel(source, options);
}
