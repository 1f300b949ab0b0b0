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
import { DEVICES, DTYPES, requireSource } from './opening.js';
import { COUNT, FLAG, FUNCTION, OBJECT, PORT, SIGNAL, checkedOptions, oneOf, wrong } from './options.js';
import { openRemote } from './remote.js';

export { FORMATS, detectFormat, getFormat, parseReply, readerOf } from './calls.js';
export { cachedAdapters, clearCachedAdapters } from './cache.js';
export { LorakitError } from './errors.js';
export { LoadedAdapter } from './adapters.js';
export { Model } from './model.js';

const MODULE = ["transformers.js's module, or its address", (value) => value !== null && ['object', 'string'].includes(typeof value)];
const OPTIONS = {
  transformers: MODULE, device: oneOf(...DEVICES), dtype: oneOf(...DTYPES), worker: PORT, threads: COUNT,
  cache: FLAG, sessionOptions: OBJECT, progress: FUNCTION, signal: SIGNAL,
}; // prettier-ignore

/**
 * Open a model: an export of lorakit's, or any decoder for transformers.js (as a base alone).
 *
 * It runs in a worker, unless `worker` is false or `transformers` is a module, which cannot be sent
 * to one: a worker of your own that calls `serve(self, { transformers })` can be given instead.
 * @param {string} source a path or an address of a folder, or hf:org/repo[@revision]
 * @param {import('./lorakit.d.ts').OpenOptions} [options]
 * @returns {Promise<import('./lorakit.d.ts').Model>}
 */
export async function open(source, options) {
  requireSource(source);
  const chosen = checkedOptions(options, OPTIONS, 'the options of open');
  if (chosen.transformers instanceof URL) chosen.transformers = chosen.transformers.href;
  const module = typeof chosen.transformers === 'object';
  const { worker = !module && typeof Worker !== 'undefined' } = chosen;
  if (!worker) return openModel(source, chosen);
  if (module) throw wrong('a module cannot be sent to a worker: give its address, or a worker of yours that calls serve');
  return openRemote(source, { ...chosen, worker });
}
