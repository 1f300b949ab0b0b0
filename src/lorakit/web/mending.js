/**
 * Mending calls that are nearly JSON: what small models slip on, where it is clear what was meant.
 * The rules and the words are those of chat/formats/mending.py.
 *
 * It makes up no keys and no values: what could mean two things stays unread.
 */

import { DOUBLE, FENCES, SINGLE } from './broken.js';
import { callFrom, checkCall, readValue } from './jsoncall.js';
import { BadCall } from './scanning.js';
import { SPACES, strip, stripEnd, without } from './spaces.js';

const FENCE = 'a fence around it was left out';
export const LIST = 'a list of calls was taken as its calls';
const CONTROL = 'a control character in a string was kept as it is';
const COMMA = 'a comma before a closing bracket was left out';
const LITERAL = "True, False or None of Python was read as JSON's";
const QUOTES = 'single quotes were read as double ones';
const QUOTED = "quotation marks were read as the format's own";
const BRACES = 'braces written twice were read as one';
const MISSING = 'missing brackets were added at the end';
export const CLOSING = 'the missing closing tag was added';

const FENCED = new RegExp(`${FENCES}[${SPACES}]*`, 'uy');
const SPACE = /[ \t\r\n]*/y;
const AS_DOUBLE = /\\[^]|"/g;
const RAW = /\\[^"']/; // in Gemma's notation a backslash is one
const AS_JSON = /\\[^]|[\x00-\x1f]/g;
const HAS_CONTROL = /[\x00-\x1f]/;
const WORD = /[A-Za-z0-9_.+-]{1,1100}/y;
const BARE_KEY = new RegExp(`[^${SPACES}{}\\[\\]:,<>|"]+`, 'y');
const WORDS = new Map([['true', true], ['false', false], ['null', null]]); // prettier-ignore
const OF_PYTHON = new Map([['True', true], ['False', false], ['None', null]]); // prettier-ignore
const MAX_DEPTH = 64;
const LEVELS = MAX_DEPTH + 3; // of the arguments, their call, and lists of calls

/**
 * The calls of a text, which are JSON as of readCall or nearly so, and what was mended. closed:
 * whether a closing tag stood behind the text, so that nothing was to follow; otherwise brackets are
 * added only behind whole arguments. between: what may stand before, between and behind several
 * calls. Throws BadCall.
 * @param {string} body @param {string[]} keys
 * @param {{required: boolean, closed: boolean, between?: RegExp | null}} options
 * @returns {{calls: import('./scanning.js').Call[], done: string[]}}
 */
export function mendCalls(body, keys, { required, closed, between = null }) {
  const reader = new Mending(body, closed);
  const calls = [];
  reader.begin(between);
  for (;;) {
    const value = reader.value(0);
    const listed = Array.isArray(value) && value.length > 0;
    if (listed) reader.did(LIST);
    const items = listed ? value : [value];
    for (const item of items) calls.push(callFrom(item, keys, reader.at, { required }));
    const outer = listed ? 1 : 0;
    const told = keys.some((key) => Object.hasOwn(items.at(-1), key));
    if (reader.added > 1 + outer || (reader.added > outer && !told)) reader.needClosed(reader.at);
    reader.skip(between);
    if (reader.at === reader.text.length) return { calls, done: reader.done };
    if (!between) throw new BadCall('more follows the call', reader.at);
  }
}

/**
 * The arguments of a call whose name stands before them, and what was mended. escape: what stands on
 * both sides of strings in Gemma's notation, whose keys are bare. Throws BadCall.
 * @param {string} body @param {{closed: boolean, escape?: string}} options
 * @returns {{arguments: object, done: string[]}}
 */
export function mendArguments(body, { closed, escape = '' }) {
  const reader = new Mending(body, closed, escape);
  reader.begin(null);
  const value = reader.value(0);
  if (reader.added) reader.needClosed(reader.at);
  reader.skip(null);
  if (reader.at < reader.text.length) throw new BadCall('more follows the arguments', reader.at);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadCall('the arguments must be an object', reader.at);
  checkCall('', value, reader.at);
  return { arguments: value, done: reader.done };
}

/**
 * The call whose name, and what stands before it, a pattern matches; its arguments stand behind it.
 * @param {string} text @param {RegExp} name sticky, with the group `name`
 * @param {{close: string, stops: string[], escape?: string}} marks
 */
export function mendNamed(text, name, { close, stops, escape }) {
  name.lastIndex = 0;
  const head = name.exec(text);
  if (!head) throw new BadCall('it has no name', 0);
  const { body, closed } = without(text.slice(head[0].length), { close, stops });
  return callOf(head.groups.name, mendArguments(body, { closed, escape }));
}

/** One call as `mend` gives it; where nothing else was mended, its closing tag was missing. */
export function callOf(name, { arguments: given, done }) {
  return { calls: [{ name, arguments: given }], done: done.length ? done : [CLOSING] };
}

/** Recursive descent over one text; `at` is where it has read to, `added` the brackets it added. */
class Mending {
  constructor(text, closed, escape = '') {
    this.text = strip(text);
    this.at = 0;
    this.done = [];
    this.added = 0;
    this.closed = closed;
    this.escape = escape;
  }

  did(words) {
    if (!this.done.includes(words)) this.done.push(words);
  }

  /** To where the first value begins, without a fence around all of it. */
  begin(between) {
    const fence = this.match(FENCED);
    if (fence) {
      const inside = this.text.slice(this.at);
      this.text = stripEnd(inside.endsWith('```') ? inside.slice(0, -3) : inside);
      this.at = 0;
      this.did(FENCE);
    }
    this.skip(between);
  }

  /** Behind white space and what may stand between two calls. */
  skip(between) {
    this.match(between ?? SPACE);
  }

  needClosed(at) {
    if (!this.closed) throw new BadCall('it ends before its arguments do', at);
  }

  value(depth) {
    if (depth > LEVELS) throw new BadCall(`nested deeper than ${MAX_DEPTH} levels`, this.at);
    const char = this.text[this.at];
    if (char === '{') return this.object(depth);
    if (char === '[') return this.array(depth);
    return this.beginsString() ? this.string() : this.word();
  }

  object(depth) {
    const closing = this.sees('{{') ? '}}' : '}';
    if (closing === '}}') this.did(BRACES);
    const found = new Map();
    this.at += closing.length;
    this.skip(null);
    while (!this.ends(closing, found.size > 0)) {
      const key = this.key();
      if (found.has(key)) throw new BadCall('a key occurs twice', this.at);
      this.skip(null);
      if (!this.sees(':')) throw new BadCall("expected ':' after a key", this.at);
      this.at += 1;
      this.skip(null);
      found.set(key, this.value(depth + 1));
      this.comma(closing);
    }
    return Object.fromEntries(found);
  }

  array(depth) {
    const found = [];
    this.at += 1;
    this.skip(null);
    while (!this.ends(']', found.length > 0)) {
      found.push(this.value(depth + 1));
      this.comma(']');
    }
    return found;
  }

  /** Whether a closing bracket stands here, which is passed, or is missing at the end of the text. */
  ends(closing, filled) {
    if (this.sees(closing)) {
      this.at += closing.length;
      return true;
    }
    if (this.at < this.text.length || !filled) return false;
    this.added += 1;
    this.did(MISSING);
    return true;
  }

  /** Behind the comma after an item, if another follows; else before what closes. */
  comma(closing) {
    this.skip(null);
    const left = () => this.at < this.text.length && !this.sees(closing);
    if (!this.sees(',')) {
      if (left()) throw new BadCall(`expected ',' or '${closing}'`, this.at);
      return;
    }
    this.at += 1;
    this.skip(null);
    if (!left()) this.did(COMMA);
  }

  beginsString() {
    return this.sees('"') || this.sees("'") || (this.escape !== '' && this.sees(this.escape));
  }

  key() {
    return (this.escape && !this.beginsString() && this.match(BARE_KEY)?.[0]) || this.string();
  }

  string() {
    if (this.escape && this.sees(this.escape)) return this.escaped();
    if (this.escape) this.did(QUOTED);
    const single = this.sees("'");
    const start = this.at;
    const found = this.match(single ? SINGLE : DOUBLE);
    if (!found) throw new BadCall('expected a whole string', start);
    if (this.escape && RAW.test(found[1])) throw new BadCall('a backslash that may be one or an escape', start);
    if (single && found[1].replaceAll('\\\\', '').includes('\\/')) throw new BadCall('an escape that means two things', start);
    if (single) this.did(QUOTES);
    const inside = single ? found[1].replace(AS_DOUBLE, inDouble) : found[1];
    if (HAS_CONTROL.test(inside)) this.did(CONTROL);
    try {
      return JSON.parse(`"${inside.replace(AS_JSON, asJson)}"`);
    } catch {
      throw new BadCall("an escape that is not JSON's", start);
    }
  }

  /** A string of Gemma's notation. */
  escaped() {
    const begin = this.at + this.escape.length;
    const end = this.text.indexOf(this.escape, begin);
    if (end < 0) throw new BadCall('expected a whole string', this.at);
    this.at = end + this.escape.length;
    return this.text.slice(begin, end);
  }

  word() {
    const start = this.at;
    const word = this.match(WORD)?.[0];
    if (!word) throw new BadCall('expected a value', start);
    if (this.at === this.text.length) this.needClosed(start); // more of it may have been to come
    if (WORDS.has(word)) return WORDS.get(word);
    if (OF_PYTHON.has(word)) {
      if (!this.escape) this.did(LITERAL); // where templates print them
      return OF_PYTHON.get(word);
    }
    const { end, value } = readValue(word, 0);
    if (end < word.length || typeof value !== 'number') throw new BadCall('expected a value', start);
    return value;
  }

  sees(token) {
    return this.text.startsWith(token, this.at);
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at += found[0].length;
    return found;
  }
}

/** A part of a text in single quotes as it stands between double ones. */
function inDouble(part) {
  if (part === '"') return '\\"';
  return part === "\\'" ? "'" : part;
}

/** A control character as JSON has it; what a backslash stands before stays. */
function asJson(part) {
  return part.length > 1 ? part : `\\u${part.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
