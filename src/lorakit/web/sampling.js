/**
 * From logits to a token: greedy, or drawn after temperature, top-k and top-p, in that order.
 *
 * Ties go to the lowest id, and a seed draws what it draws in Python (runtime/sampling.py).
 */

import { LorakitError } from './errors.js';
import { shown } from './options.js';
import { uniform } from './random.js';

const NEGLIGIBLE = 30; // nats below the best token: beneath float32

/**
 * temperature 0 is greedy; topK 0 and topP 1 are off. stop: texts that end an answer before them.
 * @typedef {{maxTokens: number, temperature: number, topK: number, topP: number,
 *   seed: number | null, stop: string[]}} Sampling
 */
export const DEFAULTS = { maxTokens: 256, temperature: 0, topK: 0, topP: 1, seed: null, stop: [] };

const whole = (x) => Number.isSafeInteger(x) && x >= 0;
const RULES = {
  maxTokens: ['an integer of 0 or more', whole],
  temperature: ['a finite number of 0 or more', (x) => Number.isFinite(x) && x >= 0],
  topK: ['an integer of 0 or more', whole],
  topP: ['above 0 and at most 1', (x) => Number.isFinite(x) && x > 0 && x <= 1],
  seed: ['null or an integer of 0 or more', (x) => x === null || whole(x)],
  stop: ['non-empty strings', (x) => Array.isArray(x) && Array.from(x).every((text) => typeof text === 'string' && text)],
};

/** The sampling part of a request's options, checked. @returns {Sampling} */
export function samplingOf(options) {
  const given = Object.keys(DEFAULTS).filter((name) => options[name] !== undefined);
  const params = { ...DEFAULTS, ...Object.fromEntries(given.map((name) => [name, options[name]])) };
  if (typeof params.stop === 'string') params.stop = [params.stop];
  const items = Object.entries(RULES)
    .filter(([name, [, valid]]) => !valid(params[name]))
    .map(([name, [expected]]) => `${name} must be ${expected}, found ${shown(params[name])}`);
  if (items.length) throw new LorakitError('invalid sampling parameters', { code: 'parameter_invalid', items });
  return params;
}

/** The random stream of one request. */
export class Sampler {
  /** @param {Sampling} params */
  constructor({ temperature, topK, topP, seed }) {
    this.temperature = Math.fround(temperature);
    this.topK = topK;
    this.topP = topP;
    this.uniform = uniform(seed);
  }

  /** A token for logits [vocabulary]. Throws engine_failed where they are not finite. */
  choose(logits) {
    const best = greedy(logits);
    if (!Number.isFinite(logits[best])) throw new LorakitError('the logits are not finite', { code: 'engine_failed' });
    return this.temperature > 0 ? this.draw(logits, logits[best]) : best;
  }

  draw(logits, best) {
    const floor = best - this.temperature * NEGLIGIBLE;
    let found = [];
    for (let token = 0; token < logits.length; token += 1) if (logits[token] >= floor) found.push(token);
    // A stable sort, so that ties go to the smaller ids.
    if (this.topK && found.length > this.topK) {
      const kept = [...found].sort((x, y) => logits[y] - logits[x]).slice(0, this.topK);
      found = kept.sort((x, y) => x - y);
    }
    let candidates = found.map((token) => {
      const gap = Math.fround(Math.fround(logits[token] - best) / this.temperature);
      return { token, weight: Math.fround(Math.exp(gap)) };
    });
    if (this.topP < 1) candidates = nucleus(candidates, this.topP);
    return pick(candidates, this.uniform());
  }
}

/** The first of the largest; a NaN, if there is one. */
function greedy(logits) {
  let best = 0;
  for (let token = 0; token < logits.length; token += 1) {
    if (logits[token] > logits[best]) best = token;
    else if (Number.isNaN(logits[token])) return token;
  }
  return best;
}

/** The likeliest tokens that together reach topP, best first. */
function nucleus(candidates, topP) {
  const target = topP * totalOf(candidates);
  const order = [...candidates].sort((x, y) => y.weight - x.weight);
  let before = 0;
  let count = 0;
  while (count < order.length && before < target) {
    before += order[count].weight;
    count += 1;
  }
  return order.slice(0, count);
}

/** The token at which the running sum passes `point` of the total. */
function pick(candidates, point) {
  const target = point * totalOf(candidates);
  let sum = 0;
  for (const { token, weight } of candidates) {
    sum += weight;
    if (sum > target) return token;
  }
  return candidates.at(-1).token;
}

function totalOf(candidates) {
  return candidates.reduce((sum, { weight }) => sum + weight, 0);
}
