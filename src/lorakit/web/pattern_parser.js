/** Recursive descent from the text of a regular expression to a tree, for patterns.js. */

const MAX_DEPTH = 64; // nested groups
const COUNT = /^\{(\d{0,4})(?:(,)(\d{0,4}))?\}/;
const NAMED = /^P<[\p{L}_][\p{L}\p{N}_]*>/u;
const ALNUM = /[\p{L}\p{N}]/u;
const CLASSES = { d: /\p{Nd}/u, w: /[\p{L}\p{N}_]/u, s: /[\s\x1c-\x1f\x85]/u };
const SIMPLE = { '*': [0, null], '+': [1, null], '?': [0, 1] };
const ANCHORS = { A: '^', Z: '$', b: 'b' };

/**
 * @typedef {{kind: 'test', test: '^' | '$' | 'b' | ((char: string) => boolean)}
 *   | {kind: 'repeat', node: Node, low: number, high: number | null}
 *   | {kind: 'sequence' | 'either', nodes: Node[]}} Node
 */

/** A pattern that is not a regular expression, or beyond the subset or its bounds. */
export class PatternError extends Error {}

/** A pattern that may be a regular expression, but is none of the subset. */
export class UnknownSyntaxError extends PatternError {}

/** @param {string[]} chars a pattern's characters @returns {Node} */
export function parsePattern(chars) {
  const parser = new Parser(chars);
  const tree = parser.alternatives();
  if (parser.at < chars.length) throw new PatternError('unbalanced parenthesis');
  return tree;
}

class Parser {
  constructor(chars) {
    this.chars = chars;
    this.at = 0;
    this.depth = 0;
  }

  alternatives() {
    const nodes = [this.sequence()];
    while (this.take('|')) nodes.push(this.sequence());
    return nodes.length > 1 ? { kind: 'either', nodes } : nodes[0];
  }

  sequence() {
    const nodes = [];
    while (this.at < this.chars.length && !'|)'.includes(this.chars[this.at])) nodes.push(this.repeated(this.atom()));
    return { kind: 'sequence', nodes };
  }

  repeated(node) {
    const range = this.range();
    if (!range) return node;
    const [low, high] = range;
    if (high !== null && low > high) throw new PatternError('a repetition from more to less');
    this.take('?'); // lazy: the same whole matches
    if (Object.hasOwn(SIMPLE, this.chars[this.at] ?? '')) throw new UnknownSyntaxError('multiple or possessive quantifiers');
    return high === 0 ? { kind: 'sequence', nodes: [] } : { kind: 'repeat', node, low, high };
  }

  /** How often, where a quantifier follows. */
  range() {
    const char = this.chars[this.at] ?? '';
    if (Object.hasOwn(SIMPLE, char)) {
      this.at += 1;
      return SIMPLE[char];
    }
    const count = COUNT.exec(this.ahead(12));
    if (!count || count[0] === '{}') return null;
    this.at += count[0].length;
    const low = Number(count[1]);
    if (!count[2]) return [low, low];
    return [low, count[3] ? Number(count[3]) : null];
  }

  atom() {
    const char = this.next();
    if (char === '(') return this.group();
    if ('*+?'.includes(char)) throw new PatternError('nothing to repeat');
    if (char === '^' || char === '$') return { kind: 'test', test: char };
    if (char === '.') return { kind: 'test', test: (c) => c !== '\n' };
    if (char === '[') return { kind: 'test', test: this.set() };
    if (char === '\\') return { kind: 'test', test: this.escaped() };
    return { kind: 'test', test: one(char) };
  }

  escaped() {
    const char = this.next();
    return Object.hasOwn(ANCHORS, char) ? ANCHORS[char] : escape(char);
  }

  group() {
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw new PatternError('groups are nested too deeply');
    let ahead = null;
    if (this.take('?') && !this.take(':')) {
      ahead = ['!', '='].find((sign) => this.take(sign)) ?? null;
      if (!ahead) this.groupName();
    }
    const tree = this.alternatives();
    if (!this.take(')')) throw new PatternError('missing )');
    this.depth -= 1;
    return ahead ? { kind: 'look', node: tree, negative: ahead === '!' } : tree;
  }

  groupName() {
    const end = this.chars.indexOf('>', this.at);
    const name = end < 0 ? '' : this.chars.slice(this.at, end + 1).join('');
    if (!NAMED.test(name)) throw new UnknownSyntaxError('look-behind, flags and back-references are not supported');
    this.at = end + 1;
  }

  set() {
    const negated = this.take('^');
    const tests = [this.setItem()];
    while (!this.take(']')) tests.push(this.setItem());
    return (char) => tests.some((test) => test(char)) !== negated;
  }

  setItem() {
    const low = this.setChar();
    const [dash, after] = [this.chars[this.at], this.chars[this.at + 1]];
    if (typeof low === 'function') return low;
    if (dash !== '-' || after === undefined || after === ']') return one(low);
    this.at += 1;
    const high = this.setChar();
    if (typeof high === 'function' || code(high) < code(low)) throw new PatternError('a bad character range');
    return (char) => code(low) <= code(char) && code(char) <= code(high);
  }

  setChar() {
    const char = this.next();
    if (char !== '\\') return char;
    const named = this.next();
    const test = escape(named);
    return Object.hasOwn(CLASSES, named.toLowerCase()) ? test : named;
  }

  next() {
    if (this.at >= this.chars.length) throw new PatternError('the pattern ends too early');
    this.at += 1;
    return this.chars[this.at - 1];
  }

  ahead(count) {
    return this.chars.slice(this.at, this.at + count).join('');
  }

  take(char) {
    if (this.chars[this.at] !== char) return false;
    this.at += 1;
    return true;
  }
}

function one(char) {
  return (other) => other === char;
}

function code(char) {
  return char.codePointAt(0);
}

function escape(char) {
  const small = char.toLowerCase();
  if (Object.hasOwn(CLASSES, small)) return (other) => CLASSES[small].test(other) === (char === small);
  if (ALNUM.test(char)) throw new UnknownSyntaxError(`the escape \\${char} is not supported`);
  return one(char);
}
