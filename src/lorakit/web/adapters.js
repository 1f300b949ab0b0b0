/**
 * The adapters of an open model: which are loaded, which act, and at what scale.
 *
 * A request takes its set when it is made; what is applied or unloaded later changes nothing in it.
 */

import { LorakitError } from './errors.js';
import { parseReference } from './reference.js';

const CONFIG = ['path', 'source', 'mode', 'scale', 'onError', 'digest', 'name', 'signal', 'progress', 'cache', 'endpoint'];
const CHOICES = { source: ['auto', 'url', 'file', 'huggingface'], mode: ['dynamic', 'merge'], onError: ['raise', 'base'] };

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
  }

  add(name, adapter) {
    this.refuseTaken(name);
    this.loaded.set(name, adapter);
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

/** @param {Scales} scales */
function asScales(scales) {
  const bad = typeof scales !== 'object' || scales === null;
  if (bad) throw new LorakitError('adapters must be names, or names with scales', { code: 'parameter_invalid' });
  const pairs = Array.isArray(scales)
    ? scales.map((name) => [name, 1])
    : scales instanceof Map ? [...scales] : Object.entries(scales);
  const found = new Map();
  for (const [name, scale] of pairs) {
    if (typeof name !== 'string')
      throw new LorakitError('an adapter is named by a string', { code: 'parameter_invalid' });
    if (found.has(name)) throw new LorakitError(`adapter '${name}' is named twice`, { code: 'parameter_invalid' });
    found.set(name, checkedScale(name, scale));
  }
  return found;
}

export function checkedScale(name, scale) {
  if (typeof scale === 'number' && Number.isFinite(Math.fround(scale))) return scale;
  throw new LorakitError(`the scale of '${name}' must be a finite number, found ${String(scale)}`, {
    code: 'parameter_invalid',
  });
}

/** A user's handle to a loaded adapter. */
export class LoadedAdapter {
  constructor(model, name) {
    this.model = model;
    this.name = name;
    this.adapter = model.table.get(name);
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
    await this.model.unload(this.current());
  }

  /** Its name, if it is still the adapter of that name. */
  current() {
    if (this.model.table.get(this.name) === this.adapter) return this.name;
    throw new LorakitError(`this adapter '${this.name}' was unloaded; another one has its name now`, { code: 'adapter_unknown' });
  }
}

/**
 * A path, or an adapter's configuration with its name filled in; all faults of it at once.
 * @param {any} given @returns {object}
 */
export function checkedConfig(given) {
  const config = isPlain(given) ? given : { path: given };
  const items = Object.keys(config)
    .filter((key) => !CONFIG.includes(key))
    .map((key) => `${key}: unknown; known: ${CONFIG.join(', ')}`);
  for (const [name, allowed] of Object.entries(CHOICES))
    if (config[name] !== undefined && !allowed.includes(config[name]))
      items.push(`${name} is ${allowed.join(' or ')}, found ${String(config[name])}`);
  if (!config.path) items.push('path: expected an address, a Hub id or files');
  if (items.length) throw new LorakitError('the adapter cannot be loaded', { code: 'parameter_invalid', items });
  if (config.scale !== undefined && config.scale !== null) checkedScale(config.name ?? 'the adapter', config.scale);
  return { ...config, name: config.name ?? nameOf(config) };
}

function nameOf({ path, source, endpoint }) {
  return path instanceof Map ? path.name || 'adapter' : parseReference(path, source, { endpoint }).name;
}

function isPlain(value) {
  return Object.prototype.toString.call(value) === '[object Object]' && !(value instanceof Map);
}
