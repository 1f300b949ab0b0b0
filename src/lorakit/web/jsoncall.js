/**
 * Reading a JSON call out of a model's reply: one object from a position, faults as reasons.
 *
 * JSON.parse cannot begin in the middle, and says neither where a value ended nor that a key came
 * twice. This reader does, with the reasons and positions of Python's (chat/jsoncall.py).
 */

import { growingAs } from './arguments.js';
import { readOrPass } from './broken.js';
import { BadCall } from './scanning.js';
import { SPACES } from './spaces.js';

const MAX_DIGITS = 1000;
const MAX_DEPTH = 64; // levels of a call's arguments
const MAX_NESTING = 900; // of any JSON: below what a stack holds
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\x00-\x1f]*/y;
const HEX = /^[0-9a-fA-F]$/;
const WORDS = [
  ['null', null], ['true', true], ['false', false],
]; // prettier-ignore
const NOT_JSON = ['NaN', 'Infinity', '-Infinity'];
const ESCAPES = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

const SPACE = `[${SPACES}]*`;
const NAMED = `\\{${SPACE}"name"${SPACE}:${SPACE}"(?<name>(?:[^"\\\\]|\\\\.)+)"`;

/**
 * How a call that readCall reads is told while it is written, its name before its arguments.
 * before: a pattern of all that stands before its brace; where one reading takes in several calls
 * also of what stands between the arguments of one and the brace of the next. certain: whether the
 * name is told only once arguments follow, since other JSON may have a name too.
 * @param {string} before @param {string[]} keys @param {{certain?: boolean}} [options]
 * @returns {import('./arguments.js').Growing}
 */
export function growing(before, keys, { certain = false } = {}) {
  const args = `${SPACE},${SPACE}"(?:${keys.join('|')})"${SPACE}:${SPACE}(?=\\{)`;
  const name = `(?:${before})${NAMED}${certain ? `(?=${args})` : ''}`;
  return growingAs(name, args, { quoted: true });
}

/** The first position at or after `at` that holds no white space of JSON. */
export function skipSpace(text, at) {
  while (at < text.length && ' \t\r\n'.includes(text[at])) at += 1;
  return at;
}

/**
 * The call {"name": ..., <one of keys>: {...}} at a position. required: without one of the keys it
 * is no call. Throws BadCall.
 * @param {string} text @param {number} at @param {string[]} keys
 * @param {{required: boolean}} options @returns {{end: number, name: string, arguments: object}}
 */
export function readCall(text, at, keys, { required }) {
  const { end, value } = readValue(text, at);
  return { end, ...callFrom(value, keys, end, { required }) };
}

/** The call that a JSON value is, as of readCall. end: where it ended, for BadCall. */
export function callFrom(value, keys, end, { required }) {
  if (!isObject(value)) throw new BadCall('expected a JSON object', end);
  const name = Object.hasOwn(value, 'name') ? value.name : undefined;
  if (typeof name !== 'string' || !name) throw new BadCall('the call has no name', end);
  const present = keys.filter((key) => Object.hasOwn(value, key));
  if (required && !present.length) throw new BadCall(`the call has no ${keys[0]}`, end);
  if (present.length > 1) throw new BadCall(`the call has both ${present.join(' and ')}`, end);
  let found = present.length ? value[present[0]] : {};
  if (found === null && !required) found = {};
  if (typeof found === 'string') found = unquoted(found, end);
  if (!isObject(found)) throw new BadCall(`${present[0]} must be an object`, end);
  checkCall(name, found, end);
  return { name, arguments: found };
}

/** Refuse half a surrogate pair, and what is nested deeper than messages may be. */
export function checkCall(name, given, end) {
  let level = [name, given];
  for (let depth = 0; depth <= MAX_DEPTH; depth += 1) {
    const inner = [];
    for (const value of level) {
      if (typeof value === 'string') {
        if (!value.isWellFormed()) throw new BadCall('a string holds half of a surrogate pair', end);
      } else if (Array.isArray(value)) {
        for (const item of value) inner.push(item);
      } else if (isObject(value)) {
        for (const pair of Object.entries(value)) inner.push(...pair);
      }
    }
    level = inner;
  }
  if (level.length) throw new BadCall(`nested deeper than ${MAX_DEPTH} levels`, end);
}

/** The JSON value at a position and its end. Throws BadCall. */
export function readValue(text, at) {
  const reader = new Reader(text);
  const value = readOrPass(text, at, () => reader.value(at, 0));
  if (reader.faults.length) throw new BadCall(reader.faults[0], reader.at);
  return { end: reader.at, value };
}

function unquoted(given, end) {
  let found;
  try {
    found = readValue(given, 0);
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    throw new BadCall(`the quoted arguments are ${error.message}`, end);
  }
  if (given.slice(found.end).trim()) throw new BadCall('the quoted arguments are not one JSON value', end);
  return found.value;
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Recursive descent; `at` is where the last value ended, `faults` what JSON forbids beyond syntax. */
class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.faults = [];
  }

  value(at, depth) {
    const char = this.text[at];
    if (depth > MAX_NESTING) throw new BadCall('nested too deep', this.text.length);
    if (char === '"') return this.string(at);
    if (char === '{') return this.object(at, depth);
    if (char === '[') return this.array(at, depth);
    for (const [word, value] of WORDS) if (this.text.startsWith(word, at)) return this.end(at + word.length, value);
    for (const word of NOT_JSON) {
      if (!this.text.startsWith(word, at)) continue;
      this.faults.push(`${word} is not JSON`);
      return this.end(at + word.length, null);
    }
    return this.number(at);
  }

  number(at) {
    NUMBER.lastIndex = at;
    const found = NUMBER.exec(this.text);
    if (!found) throw syntax('Expecting value', at);
    const whole = found[1] === undefined && found[2] === undefined;
    if (whole && found[0].length > MAX_DIGITS) this.faults.push('a number with too many digits');
    const value = Number(found[0]);
    if (!whole && !Number.isFinite(value)) this.faults.push('a number too large');
    return this.end(at + found[0].length, value);
  }

  object(at, depth) {
    const found = new Map();
    let twice = false;
    let next = skipSpace(this.text, at + 1);
    if (this.text[next] !== '}') {
      for (;;) {
        if (this.text[next] !== '"') throw syntax('Expecting property name enclosed in double quotes', next);
        const key = this.string(next);
        next = skipSpace(this.text, this.at);
        if (this.text[next] !== ':') throw syntax("Expecting ':' delimiter", next);
        const value = this.value(skipSpace(this.text, next + 1), depth + 1);
        twice ||= found.has(key);
        found.set(key, value);
        next = skipSpace(this.text, this.at);
        if (this.text[next] === '}') break;
        if (this.text[next] !== ',') throw syntax("Expecting ',' delimiter", next);
        next = skipSpace(this.text, next + 1);
      }
    }
    if (twice) this.faults.push('a key occurs twice');
    return this.end(next + 1, Object.fromEntries(found));
  }

  array(at, depth) {
    const found = [];
    let next = skipSpace(this.text, at + 1);
    while (this.text[next] !== ']' || found.length) {
      found.push(this.value(next, depth + 1));
      next = skipSpace(this.text, this.at);
      if (this.text[next] === ']') break;
      if (this.text[next] !== ',') throw syntax("Expecting ',' delimiter", next);
      next = skipSpace(this.text, next + 1);
    }
    return this.end(next + 1, found);
  }

  string(at) {
    const parts = [];
    let next = at + 1;
    for (;;) {
      PLAIN.lastIndex = next;
      parts.push(PLAIN.exec(this.text)[0]);
      next = PLAIN.lastIndex;
      const char = this.text[next];
      if (char === '"') return this.end(next + 1, parts.join(''));
      if (char === undefined) throw unclosed(this.text);
      if (char !== '\\') throw syntax('Invalid control character at', next);
      next = this.escape(next, parts);
    }
  }

  /** The end of the escape whose backslash is at `at`. */
  escape(at, parts) {
    const char = this.text[at + 1];
    if (char === undefined) throw unclosed(this.text);
    if (char !== 'u') {
      if (!Object.hasOwn(ESCAPES, char)) throw syntax('Invalid \\escape', at);
      parts.push(ESCAPES[char]);
      return at + 2;
    }
    const digits = this.text.slice(at + 2, at + 6);
    // Python wants a character after the four digits too.
    if (at + 6 >= this.text.length || ![...digits].every((digit) => HEX.test(digit)))
      throw syntax('Invalid \\uXXXX escape', at + 1);
    parts.push(String.fromCharCode(Number.parseInt(digits, 16)));
    return at + 6;
  }

  end(at, value) {
    this.at = at;
    return value;
  }
}

const syntax = (reason, at) => new BadCall(`not valid JSON: ${reason}`, at);
const unclosed = (text) => new BadCall('not valid JSON: Unterminated string starting at', text.length);
