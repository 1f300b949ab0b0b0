/**
 * How far a value goes that cannot be read, past the strings in it: what begins like a call within one
 * of them must not become a call. The rules are those of chat/formats/broken.py.
 */

import { BadCall } from './scanning.js';
import { SPACES, matchAt } from './spaces.js';

export const FENCES = '```[\\p{L}\\p{N}_+-]*';
export const DOUBLE = /"([^"\\]*(?:\\[^][^"\\]*)*)"/y;
export const SINGLE = /'([^'\\]*(?:\\[^][^'\\]*)*)'/y;
const FENCED = new RegExp(FENCES, 'uy');
const SPACE = /[ \t\r\n]+/y;
const WORD = new RegExp(`[^${SPACES}{}[\\],:"'<>|\`]+`, 'y');

/**
 * What `run` gives; what it cannot read is passed up to where the value at a position ends, or further.
 * escape: what stands on both sides of strings in Gemma's notation. @param {string} text
 */
export function readOrPass(text, at, run, escape = '') {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    throw new BadCall(error.message, Math.max(error.position, past(text, at, escape)), error.begin);
  }
}

/** Where the value at a position ends, or what can be no part of one follows. In linear time. */
export function past(text, at, escape = '') {
  at += (matchAt(FENCED, text, at) ?? '').length;
  let [depth, due] = [0, true]; // whether a value or a key is due
  while (at < text.length) {
    const char = text[at];
    const space = matchAt(SPACE, text, at);
    if (space) at += space.length;
    else if (',:'.includes(char)) [at, due] = [at + 1, true];
    else if ('}]'.includes(char)) {
      [at, due, depth] = [at + 1, false, depth - 1];
      if (depth <= 0) return at;
    } else if (!due) return at;
    else if ('{['.includes(char)) [at, depth] = [at + 1, depth + 1];
    else {
      const end = endOfScalar(text, at, escape);
      if (end < 0) return at;
      [at, due] = [end, false];
    }
  }
  return at;
}

/** Where a string or a word ends; -1 where there is none. */
function endOfScalar(text, at, escape) {
  if (escape && text.startsWith(escape, at)) {
    const end = text.indexOf(escape, at + escape.length);
    return end < 0 ? text.length : end + escape.length;
  }
  const quoted = `"'`.includes(text[at]);
  const found = matchAt(quoted ? (text[at] === '"' ? DOUBLE : SINGLE) : WORD, text, at);
  if (found === null) return quoted ? text.length : -1;
  return at + found.length;
}
