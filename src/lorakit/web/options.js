/**
 * What callers give, checked before it is used: options by their names, and what they may be. All
 * that is wrong is said at once, as parameter_invalid.
 */

import { LorakitError } from './errors.js';

/** @typedef {[string, (value: any) => boolean]} Rule what is expected, and whether a value is that */

const isObject = (value) => typeof value === 'object' && value !== null;
export const oneOf = (...allowed) => [allowed.join(' or '), (value) => allowed.includes(value)];
export const TEXT = ['a non-empty text', (value) => typeof value === 'string' && value !== ''];
export const FLAG = oneOf(true, false);
export const SIGNAL = ['an AbortSignal', (value) => isObject(value) && typeof value.aborted === 'boolean' && typeof value.addEventListener === 'function'];
export const FUNCTION = ['a function', (value) => typeof value === 'function'];
export const PORT = ['true, false, a Worker or a MessagePort', (value) => typeof value === 'boolean' || (isObject(value) && typeof value.postMessage === 'function')];
export const COUNT = ['a whole number of 1 or more', (value) => Number.isSafeInteger(value) && value > 0];
export const OBJECT = ['an object', isPlain];
export const ANY = ['anything', () => true]; // it is checked where it is used

/**
 * Options whose names and kinds are known; those that are undefined are as if they were not there.
 * @param {any} given @param {Record<string, Rule>} rules @param {string} what they are of, for messages
 * @returns {Record<string, any>}
 */
export function checkedOptions(given, rules, what) {
  if (given === undefined) return {};
  if (!isPlain(given)) throw wrong(`${what}: expected an object, found ${shown(given)}`);
  const entries = Object.entries(given).filter(([, value]) => value !== undefined);
  const items = entries.map(([name, value]) => fault(name, value, rules)).filter(Boolean);
  if (items.length === 1) throw wrong(`${what}: ${items[0]}`);
  if (items.length) throw wrong(`${what} cannot be used`, items);
  return Object.fromEntries(entries);
}

function fault(name, value, rules) {
  if (!Object.hasOwn(rules, name)) return `${name}: unknown; known: ${Object.keys(rules).join(', ')}`;
  const [expected, good] = rules[name];
  return good(value) ? '' : `${name} must be ${expected}, found ${shown(value)}`;
}

/** An object of names and values alone, which may come from another window. @param {any} value */
export function isPlain(value) {
  return Object.prototype.toString.call(value) === '[object Object]' && [null, 'Object'].includes(Object.getPrototypeOf(value)?.constructor?.name ?? null);
}

/** A value in a message, whatever it is. @param {any} value */
export function shown(value) {
  if (typeof value === 'string') return `'${value.slice(0, 80)}'`;
  if (Array.isArray(value)) return 'a list';
  return isObject(value) || typeof value === 'function' ? `a ${typeof value}`.replace('a o', 'an o') : String(value);
}

/** @param {string} message @param {string[]} [items] */
export function wrong(message, items = []) {
  return new LorakitError(message, { code: 'parameter_invalid', items });
}
