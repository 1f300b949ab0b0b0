/**
 * JSON of strangers, as lorakit's Python side reads it.
 *
 * JSON.parse lets a key be named twice, refuses NaN, which trainers write, and cannot tell 4 from
 * 4.0. Here whole numbers are BigInt, other numbers Number, objects Map in the file's order; size,
 * items and depth are bounded.
 */

export const MAX_ITEMS = 300_000; // commas and opening brackets
const MAX_DEPTH = 900;
const MAX_DIGITS = 4300;
const NUMBER = /(-?(?:0|[1-9]\d*))(\.\d+)?([eE][-+]?\d+)?/y;
const HEX = /[0-9a-fA-F]{4}/y;
const WORDS = [
  ['true', true], ['false', false], ['null', null],
  ['NaN', NaN], ['Infinity', Infinity], ['-Infinity', -Infinity],
]; // prettier-ignore
const ESCAPES = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

/** What is no JSON, or too much of it. */
export class JsonError extends Error {}

/**
 * @param {Uint8Array} bytes UTF-8, with or without a byte order mark
 * @param {number} [limit] items that it may have
 * @returns {{value: any, items: number, objects: number}}
 */
export function parseJson(bytes, limit = MAX_ITEMS) {
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new JsonError('it is not UTF-8');
  }
  const parser = new Parser(text, limit);
  const value = parser.whole();
  return { value, items: parser.items, objects: parser.objects };
}

class Parser {
  constructor(text, limit) {
    this.text = text;
    this.limit = limit;
    this.at = 0;
    this.items = 0;
    this.objects = 0;
    this.depth = 0;
  }

  whole() {
    this.skip();
    const value = this.value();
    this.skip();
    if (this.at < this.text.length) throw this.fault('more after its end');
    return value;
  }

  value() {
    const char = this.text[this.at];
    if (char === '{') return this.nested(() => this.object());
    if (char === '[') return this.nested(() => this.list());
    if (char === '"') return this.string();
    for (const [word, value] of WORDS)
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    return this.number();
  }

  nested(read) {
    this.count();
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw new JsonError('it is nested too deeply');
    this.at += 1;
    const value = read();
    this.depth -= 1;
    return value;
  }

  object() {
    this.objects += 1;
    const found = new Map();
    if (this.ends('}')) return found;
    do {
      this.skip();
      const key = this.string();
      this.skip();
      if (!this.take(':')) throw this.fault('no colon behind a key');
      this.skip();
      if (found.has(key)) throw new JsonError(`the key '${key.slice(0, 80)}' is there twice`);
      found.set(key, this.value());
    } while (this.goesOn('}'));
    return found;
  }

  list() {
    const found = [];
    if (this.ends(']')) return found;
    do {
      this.skip();
      found.push(this.value());
    } while (this.goesOn(']'));
    return found;
  }

  ends(bracket) {
    this.skip();
    return this.take(bracket);
  }

  goesOn(bracket) {
    this.skip();
    if (this.take(bracket)) return false;
    if (!this.take(',')) throw this.fault('neither a comma nor the end');
    this.count();
    return true;
  }

  string() {
    if (!this.take('"')) throw this.fault('no string');
    const parts = [];
    let start = this.at;
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (!(code >= 0x20)) throw this.fault('a string without an end, or a control character in it');
      this.at += 1;
      if (code !== 0x22 && code !== 0x5c) continue;
      parts.push(this.text.slice(start, this.at - 1));
      if (code === 0x22) return parts.length === 1 ? parts[0] : parts.join('');
      parts.push(this.escaped());
      start = this.at;
    }
  }

  escaped() {
    const char = this.text[this.at];
    this.at += 1;
    if (Object.hasOwn(ESCAPES, char)) return ESCAPES[char];
    HEX.lastIndex = this.at;
    const code = char === 'u' ? HEX.exec(this.text) : null;
    if (!code) throw this.fault('an escape that is none');
    this.at += 4;
    return String.fromCharCode(parseInt(code[0], 16));
  }

  number() {
    NUMBER.lastIndex = this.at;
    const found = NUMBER.exec(this.text);
    if (!found) throw this.fault('no value');
    const [all, whole, fraction, exponent] = found;
    this.at += all.length;
    if (fraction || exponent) return Number(all);
    if (whole.length - (whole[0] === '-') > MAX_DIGITS) throw new JsonError('a whole number of too many digits');
    return BigInt(whole);
  }

  take(char) {
    if (this.text[this.at] !== char) return false;
    this.at += 1;
    return true;
  }

  skip() {
    while (' \t\n\r'.includes(this.text[this.at] ?? 'x')) this.at += 1;
  }

  count() {
    this.items += 1;
    if (this.items > this.limit) throw new JsonError(`it has more than ${this.limit} items, which is the limit`);
  }

  fault(what) {
    return new JsonError(`${what}, at character ${this.at}`);
  }
}
