/**
 * The adapters of an open model: which are loaded, which act, and at what scale.
 *
 * A request takes its set when it is made; what is applied or unloaded later changes nothing in it.
 */

import { LorakitError } from './errors.js';
import { FLAG, FUNCTION, SIGNAL, TEXT, checkedOptions, isPlain, oneOf, shown, wrong } from './options.js';
import { DIGEST, parseReference } from './reference.js';

const isScale = (value) => typeof value === 'number' && Number.isFinite(Math.fround(value));
const CONFIG = {
  path: ['an address, a Hub id or files', (value) => ['string', 'object'].includes(typeof value) && Boolean(value)],
  source: oneOf('auto', 'url', 'file', 'huggingface'),
  mode: oneOf('dynamic', 'merge'),
  scale: ['a finite number', (value) => value === null || isScale(value)],
  onError: oneOf('raise', 'base'),
  digest: ['sha256: and 64 hex digits', (value) => typeof value === 'string' && DIGEST.test(value)],
  name: TEXT,
  signal: SIGNAL,
  progress: FUNCTION,
  cache: FLAG,
  endpoint: TEXT,
};

/**
 * @typedef {Record<string, number> | string[]} Scales by name; a list is at scale 1
 * @typedef {{name: string, rank: number, digest: string, bytes: number, scale: number | null}} AdapterInfo
 *   scale: null while it does not act
 */

export class AdapterTable {
  constructor() {
    /** @type {Map<string, object>} */
    this.loaded = new Map();
    /** @type {Map<string, number>} */
    this.active = new Map();
    /** @type {Map<string, number>} which of all that were ever loaded has a name */
    this.serials = new Map();
    this.count = 0;
  }

  add(name, adapter) {
    this.refuseTaken(name);
    this.loaded.set(name, adapter);
    this.serials.set(name, (this.count += 1));
  }

  /** The name of the adapter with a serial number, while it is loaded. */
  current({ name, serial }) {
    this.get(name);
    if (this.serials.get(name) === serial) return name;
    throw new LorakitError(`this adapter '${name}' was unloaded; another one has its name now`, { code: 'adapter_unknown' });
  }

  refuseTaken(name) {
    if (typeof name !== 'string' || !name)
      throw new LorakitError("an adapter's name must be a non-empty string", { code: 'parameter_invalid' });
    if (this.loaded.has(name))
      throw new LorakitError(`an adapter named '${name}' is already loaded`, {
        code: 'name_taken',
        hint: 'unload it first, or load this one under another name',
      });
  }

  get(name) {
    const found = this.loaded.get(name);
    if (found) return found;
    throw new LorakitError(`no adapter named '${name}' is loaded`, {
      code: 'adapter_unknown',
      hint: `loaded adapters: ${[...this.loaded.keys()].sort().join(', ') || 'none'}`,
    });
  }

  /** Make exactly these adapters act. @param {Scales} scales */
  activate(scales) {
    const wanted = asScales(scales);
    for (const name of wanted.keys()) this.get(name);
    this.active = wanted;
  }

  /** Add one to those that act, or change its scale. */
  rescale(name, scale) {
    this.get(name);
    this.active.set(name, checkedScale(name, scale));
  }

  /** Take one out of those that act; it stays loaded. */
  remove(name) {
    this.get(name);
    this.active.delete(name);
  }

  unload(name) {
    const adapter = this.get(name);
    this.active.delete(name);
    this.loaded.delete(name);
    this.serials.delete(name);
    return adapter;
  }

  /** Adapters with scales for a request; undefined: those that act now. @param {Scales} [scales] */
  resolve(scales) {
    const wanted = scales === undefined || scales === null ? this.active : asScales(scales);
    return [...wanted].map(([name, scale]) => [this.get(name), scale]).filter(([, scale]) => scale !== 0);
  }

  /** @returns {AdapterInfo[]} */
  info() {
    return [...this.loaded].map(([name, { rank, digest, bytes }]) => {
      return { name, rank, digest, bytes, scale: this.active.get(name) ?? null };
    });
  }
}

/** Adapters with scales, checked. @param {Scales} scales @returns {Map<string, number>} */
export function asScales(scales) {
  if (!Array.isArray(scales) && !(scales instanceof Map) && !isPlain(scales))
    throw wrong(`adapters must be names, or names with scales, found ${shown(scales)}`);
  const pairs = Array.isArray(scales)
    ? Array.from(scales, (name) => [name, 1])
    : scales instanceof Map ? [...scales] : Object.entries(scales);
  const found = new Map();
  for (const [name, scale] of pairs) {
    if (typeof name !== 'string') throw wrong(`an adapter is named by a string, found ${shown(name)}`);
    if (found.has(name)) throw new LorakitError(`adapter '${name}' is named twice`, { code: 'parameter_invalid' });
    found.set(name, checkedScale(name, scale));
  }
  return found;
}

export function checkedScale(name, scale) {
  if (isScale(scale)) return scale;
  throw wrong(`the scale of '${name}' must be a finite number, found ${shown(scale)}`);
}

/** A user's handle to a loaded adapter. */
export class LoadedAdapter {
  /** Made by `load`. */
  constructor(model, name, serial) {
    this.model = model;
    this.name = name;
    this.serial = serial;
  }

  /** Rank, digest, bytes and scale. */
  get info() {
    const name = this.current();
    return this.model.adapters.find((info) => info.name === name);
  }

  async apply(scale) {
    await this.model.apply(this, scale);
  }

  async remove() {
    await this.model.remove(this);
  }

  /** Free it. Requests that were made with it keep it to their end. */
  async unload() {
    await this.model.unload(this);
  }

  /** Its name, if it is still the adapter of that name. */
  current() {
    return this.model.table.current(this);
  }
}

/**
 * A path, or an adapter's configuration with its name filled in; all faults of it at once.
 * @param {any} given @returns {object}
 */
export function checkedConfig(given) {
  const config = checkedOptions(isPlain(given) ? given : { path: given ?? null }, CONFIG, "the adapter's options");
  if (!config.path) throw wrong("the adapter's options cannot be used", [`path must be ${CONFIG.path[0]}, found none`]);
  return { ...config, name: config.name ?? nameOf(config) };
}

function nameOf({ path, source, endpoint }) {
  return path instanceof Map ? path.name || 'adapter' : parseReference(path, source, { endpoint }).name;
}
