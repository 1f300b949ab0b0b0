/**
 * Adapters as inputs of a session: their tensors, or, where they are built in, which one acts.
 *
 * A row's adapters stand side by side along the rank, each scale multiplied into its B, so that
 * (x A) B is the sum of what they add. Rows of fewer ranks are filled with zeros. What was built
 * for a set of adapters and scales is kept, so that the next token costs nothing.
 */

import { LorakitError } from './errors.js';
import { toFloat16 } from './float16.js';

const KEPT = 4; // sets; one of rank 16 for a model of 270M parameters is 8 MB

/**
 * @typedef {{a: Float32Array, b: Float32Array, rank: number}} Factors a: [in, rank]; b: [rank, out],
 *   with alpha / rank in it
 * @typedef {{tensors: Map<string, Factors>}} Adapter
 * @typedef {Array<[Adapter, number]>} AdapterSet adapters with the scales of a request
 */

export class LoraInputs {
  /** @param {import('./session.js').Session} session */
  constructor(session) {
    this.session = session;
    // WebGPU cannot bind an empty buffer.
    this.least = session.gpu ? 1 : 0;
    /** @type {Map<string, {adapters: Set<Adapter>, feeds: object}>} */
    this.kept = new Map();
    this.numbers = new WeakMap();
    this.count = 0;
  }

  /**
   * Inputs for rows, each with its own adapters; one set for all rows is fed once.
   * @param {AdapterSet[]} rows
   */
  feeds(rows) {
    const keys = rows.map((set) => this.keyOf(set));
    const sets = keys.every((key) => key === keys[0]) ? rows.slice(0, 1) : rows;
    const key = sets === rows ? keys.join('|') : keys[0];
    const found = this.kept.get(key) ?? this.build(sets);
    this.kept.delete(key);
    this.kept.set(key, found);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return found.feeds;
  }

  /** Forget what was built with an adapter. @param {Adapter} adapter */
  drop(adapter) {
    for (const [key, { adapters }] of this.kept) if (adapters.has(adapter)) this.kept.delete(key);
  }

  /** What tells one set of adapters and scales from another. @param {AdapterSet} set */
  keyOf(set) {
    return set.map(([adapter, scale]) => `${this.numberOf(adapter)}*${scale}`).join('+');
  }

  numberOf(adapter) {
    if (!this.numbers.has(adapter)) this.numbers.set(adapter, (this.count += 1));
    return this.numbers.get(adapter);
  }

  build(sets) {
    const feeds = {};
    for (const module of this.session.modules) Object.assign(feeds, this.moduleFeeds(module, sets));
    return { adapters: new Set(sets.flatMap((set) => set.map(([adapter]) => adapter))), feeds };
  }

  moduleFeeds({ module, in: wide, out }, sets) {
    const parts = sets.map((set) => factorsOf(set, module));
    const alone = sets.length === 1 && parts[0].length === 1 && parts[0][0][1] === 1 ? parts[0][0][0] : null;
    if (alone) return this.pair(module, alone, [1, alone.rank], { wide, out }); // as they are, without a copy
    const rank = Math.max(this.least, ...parts.map((row) => row.reduce((sum, [{ rank: r }]) => sum + r, 0)));
    const a = new Float32Array(sets.length * wide * rank);
    const b = new Float32Array(sets.length * rank * out);
    parts.forEach((row, index) => {
      let at = 0;
      for (const [factors, scale] of row) {
        placeColumns(a, factors.a, { rows: wide, rank: factors.rank, stride: rank, start: index * wide * rank + at });
        placeScaled(b, factors.b, scale, (index * rank + at) * out);
        at += factors.rank;
      }
    });
    return this.pair(module, { a, b }, [sets.length, rank], { wide, out });
  }

  pair(module, { a, b }, [rows, rank], { wide, out }) {
    return {
      [`${module}.lora_A`]: this.tensor(a, [rows, wide, rank]),
      [`${module}.lora_B`]: this.tensor(b, [rows, rank, out]),
    };
  }

  tensor(data, dims) {
    const type = this.session.loraType;
    return this.session.tensor(type, type === 'float16' ? toFloat16(data) : data, dims);
  }
}

/** Adapters that are weights of the graph: an input says which of them acts on a row. */
export class BuiltIn {
  /** @param {import('./session.js').Session} session */
  constructor(session) {
    this.session = session;
  }

  /** @param {Array<Array<[{place: number, name: string}, number]>>} rows */
  feeds(rows) {
    const places = rows.map((set) => this.placeOf(set));
    return { adapter: this.session.tensor('int64', BigInt64Array.from(places, BigInt), [rows.length]) };
  }

  keyOf(set) {
    return String(this.placeOf(set));
  }

  /** 0 is the base. One adapter may act, as it was exported. */
  placeOf(set) {
    if (!set.length) return 0;
    if (set.length === 1 && set[0][1] === 1) return set[0][0].place;
    throw new LorakitError('the adapters of this model are built in: one at a time, at scale 1', {
      code: 'capability_missing',
      found: set.map(([{ name }, scale]) => `${name} at ${scale}`).join(', '),
      hint: 'mix and rescale on an export with --adapters dynamic',
    });
  }

  drop() {}
}

/** The factors that a set has for a module; a scale of 0 is as if it were not there. */
function factorsOf(set, module) {
  return set
    .filter(([adapter, scale]) => scale !== 0 && adapter.tensors.has(module))
    .map(([adapter, scale]) => [adapter.tensors.get(module), scale]);
}

/** [rows, rank] into columns of a matrix whose rows are `stride` wide. */
function placeColumns(target, source, { rows, rank, stride, start }) {
  if (rank === stride) target.set(source, start);
  else for (let row = 0; row < rows; row += 1) target.set(source.subarray(row * rank, (row + 1) * rank), start + row * stride);
}

function placeScaled(target, source, scale, start) {
  for (let i = 0; i < source.length; i += 1) target[start + i] = source[i] * scale;
}
