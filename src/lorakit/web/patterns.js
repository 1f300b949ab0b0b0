/**
 * Regular expressions from untrusted files, matched in linear time, as formats/patterns.py does.
 *
 * An adapter's config may hold regular expressions, and RegExp can be made to run for years by one.
 * Here a pattern becomes a small automaton that is run without backtracking (Thompson 1968), with a
 * bound on its size and on the work of one file. Only whole matches are asked for. A look-ahead is an
 * automaton of its own: one walk over the text from its end says where it holds. Look-behind,
 * back-references and flags are refused.
 */

import { PatternError, UnknownSyntaxError, parsePattern } from './pattern_parser.js';

export { PatternError, UnknownSyntaxError };

const MAX_LENGTH = 8192; // characters of one pattern
const MAX_STATES = 20_000; // instructions of one automaton
const MAX_WORK = 2_000_000; // instructions visited and names looked up for one file
const COMPILING = 60; // what a character of a pattern costs
const LITERAL = /^[A-Za-z0-9_./ -]*$/;
const WORD = /[\p{L}\p{N}_]/u;

/** Work that may still be spent; shared by the patterns of one file. */
export class Budget {
  constructor(left = MAX_WORK) {
    this.left = left;
  }

  spend(amount) {
    this.left -= amount;
    if (this.left < 0) throw new PatternError('matching the patterns takes too much work');
  }
}

/** A compiled pattern. `fullmatch` costs time linear in the text. */
export class Regex {
  /** @param {string} pattern @param {Budget} [budget] Throws PatternError. */
  constructor(pattern, budget = new Budget()) {
    const chars = [...pattern];
    if (chars.length > MAX_LENGTH) throw new PatternError(`a pattern of ${chars.length} characters; ${MAX_LENGTH} is the limit`);
    budget.spend(COMPILING * chars.length);
    this.program = emit(parsePattern(chars));
    budget.spend(this.program.length);
    this.looks = aheads(this.program, budget);
    this.budget = budget;
    this.steps = new Map();
  }

  /** @param {string} text */
  fullmatch(text) {
    const chars = [...text];
    const holds = positions(this.looks, chars);
    let states = [0];
    let before = '';
    for (const [at, char] of chars.entries()) {
      const key = `${before}\n${char}\n${states}\n${holds[at].key}`;
      if (!this.steps.has(key)) this.steps.set(key, this.step(states, before, char, holds[at].looks));
      states = this.steps.get(key);
      before = char;
      if (!states.length) return false;
    }
    return this.close(states, before, '', holds.at(-1).looks).has(this.program.length - 1);
  }

  step(states, before, char, looks) {
    const moved = new Set();
    for (const state of this.close(states, before, char, looks)) {
      const { test, after } = this.program[state];
      if (typeof test === 'function' && test(char)) for (const next of after) moved.add(next);
    }
    return [...moved].sort((x, y) => x - y);
  }

  /** All states that can be reached here, between two characters, without a character. */
  close(states, before, after, looks) {
    const passed = new Set([null, ...anchors(before, after), ...looks]);
    const seen = new Set(states);
    const stack = [...states];
    while (stack.length) {
      const { test, after: following } = this.program[stack.pop()];
      if (!passed.has(test)) continue;
      for (const state of following)
        if (!seen.has(state)) {
          seen.add(state);
          stack.push(state);
        }
    }
    this.budget.spend(seen.size);
    return seen;
  }
}

/** The automaton of a look-ahead, walked from a text's end to its beginning. */
class Ahead {
  constructor(look, budget) {
    this.look = look;
    this.budget = budget;
    this.program = emit(look.node);
    budget.spend(this.program.length);
    this.inner = aheads(this.program, budget);
    this.before = this.program.map(() => []); // the instructions that lead to each
    for (const [state, { after }] of this.program.entries()) for (const next of after) this.before[next].push(state);
    this.steps = new Map();
  }

  /** Whether it holds at each position. @param {string[]} chars */
  holds(chars) {
    const inner = positions(this.inner, chars);
    const found = [];
    let ahead = [];
    for (let at = chars.length; at >= 0; at -= 1) {
      const [before, char] = [chars[at - 1] ?? '', chars[at] ?? ''];
      const key = `${before}\n${char}\n${ahead}\n${inner[at].key}`;
      if (!this.steps.has(key)) this.steps.set(key, this.back(ahead, before, char, inner[at].looks));
      ahead = this.steps.get(key);
      found.push((ahead[0] === 0) !== this.look.negative);
    }
    return found.reverse();
  }

  /** The instructions from which the end can be reached, in order, given those one character on. */
  back(ahead, before, char, looks) {
    const passed = new Set([null, ...anchors(before, char), ...looks]);
    const seen = new Set([this.program.length - 1]);
    for (const state of ahead)
      for (const earlier of this.before[state]) {
        const { test } = this.program[earlier];
        if (typeof test === 'function' && char && test(char)) seen.add(earlier);
      }
    const stack = [...seen];
    while (stack.length)
      for (const earlier of this.before[stack.pop()])
        if (!seen.has(earlier) && passed.has(this.program[earlier].test)) {
          seen.add(earlier);
          stack.push(earlier);
        }
    this.budget.spend(3 * seen.size); // they are kept, and take memory
    return [...seen].sort((x, y) => x - y);
  }
}

/** The look-aheads of a program, each compiled once. */
function aheads(program, budget) {
  const looks = new Set(program.map(({ test }) => test).filter((test) => test?.kind === 'look'));
  return [...looks].map((look) => new Ahead(look, budget));
}

/** The look-aheads that hold at each position of a text, its end included. */
function positions(all, chars) {
  const held = all.map((ahead) => ahead.holds(chars));
  return Array.from({ length: chars.length + 1 }, (_, at) => {
    const which = all.flatMap((_, index) => (held[index][at] ? [index] : []));
    return { key: which.join(), looks: which.map((index) => all[index].look) };
  });
}

function anchors(before, after) {
  const found = before ? [] : ['^'];
  if (!after) found.push('$');
  if (WORD.test(before) !== WORD.test(after)) found.push('b');
  return found;
}

/**
 * PEFT's rule for its pattern dictionaries: `(.*\.)?(key)$` on a name, first key wins.
 *
 * Most keys are plain names. A dot in one stands for any character, so that it matches the end of a
 * name when that end, with dots put at the key's dots, is the key: one lookup finds them all.
 */
export class PatternTable {
  /** @param {string[]} keys @param {Budget} [budget] Throws PatternError. */
  constructor(keys, budget = new Budget()) {
    this.keys = keys;
    this.budget = budget;
    /** @type {Map<string, {length: number, dots: number[], whole: boolean, plain: Map<string, number>}>} */
    this.outlines = new Map();
    this.regexes = [];
    keys.forEach((key, index) => {
      const plain = key.replace(/^\^/, '');
      if (LITERAL.test(plain)) this.addPlain(plain, plain !== key, index);
      else this.regexes.push([index, new Regex(`(.*\\.)?(${key})$`, budget)]);
    });
  }

  addPlain(plain, whole, index) {
    const dots = [...plain].flatMap((char, at) => (char === '.' ? [at] : []));
    const outline = `${plain.length}|${dots}|${whole}`;
    if (!this.outlines.has(outline)) this.outlines.set(outline, { length: plain.length, dots, whole, plain: new Map() });
    const known = this.outlines.get(outline).plain;
    if (!known.has(plain)) known.set(plain, index);
  }

  /** The first key that matches, or null. Throws PatternError at the end of the budget. */
  first(name) {
    let best = this.plainHit(name);
    for (const [index, regex] of this.regexes) if (index < best && regex.fullmatch(name)) best = index;
    return best < this.keys.length ? this.keys[best] : null;
  }

  plainHit(name) {
    let best = this.keys.length;
    for (const { length, dots, whole, plain } of this.outlines.values()) {
      this.budget.spend(1 + dots.length);
      const start = name.length - length;
      if (start < 0 || (start && (whole || name[start - 1] !== '.'))) continue;
      const tail = name.slice(start).split('');
      for (const at of dots) tail[at] = '.';
      best = Math.min(best, plain.get(tail.join('')) ?? best);
    }
    return best;
  }
}

/** The automaton of a tree; its last instruction is the match. */
function emit(tree) {
  const code = [];

  function put(test, ...after) {
    if (code.length >= MAX_STATES) throw new PatternError('the pattern is too large');
    code.push({ test, after });
    return code.length - 1;
  }

  function optional(node) {
    const fork = put(null, code.length + 1);
    add(node);
    code[fork].after.push(put(null, code.length + 1));
  }

  /** Append a fragment that begins at the next instruction and ends before the one after. */
  function add(node) {
    if (node.kind === 'sequence') {
      put(null, code.length + 1); // so that even nothing, repeated, counts against the limit
      node.nodes.forEach(add);
    } else if (node.kind === 'either') {
      const fork = put(null);
      const ends = node.nodes.map((part) => {
        code[fork].after.push(code.length);
        add(part);
        return put(null);
      });
      for (const end of ends) code[end].after.push(code.length);
    } else if (node.kind === 'repeat') repeat(node);
    else if (node.kind === 'look') put(node, code.length + 1);
    else put(node.test, code.length + 1);
  }

  function repeat({ node, low, high }) {
    for (let i = 0; i < low; i += 1) add(node);
    for (let i = 0; i < (high || low) - low; i += 1) optional(node);
    if (high !== null) return;
    const fork = put(null, code.length + 1);
    add(node);
    put(null, fork);
    code[fork].after.push(code.length);
  }

  add(tree);
  put(null);
  return code;
}
