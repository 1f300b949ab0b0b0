/**
 * How far a value goes that cannot be read, past the strings in it.
 *
 * A model that slips in one place of a call (a raw line break, a single quote, True) has usually
 * quoted the rest as it should. What begins like a call within such a string, such as a text that
 * the user gave, must not become one.
 */

import { BadCall } from './scanning.js';
import { SPACES, matchAt } from './spaces.js';

const FENCE = /```[A-Za-z0-9_+-]*/y;
const WORD = new RegExp(`[^${SPACES}{}\\[\\],:"'<>|\`]+`, 'y');
const PLAIN = { '"': /[^"\\]+/y, "'": /[^'\\]+/y }; // within a string

/**
 * Where the value that begins at a position ends, or what can be no part of one follows. escape: what
 * stands on both sides of strings in Gemma's notation. A string that does not end goes on to the end
 * of the text.
 * @param {string} text @param {number} at @param {string} [escape] @returns {number}
 */
export function past(text, at, escape = '') {
  at += (matchAt(FENCE, text, at) ?? '').length;
  let depth = 0;
  let due = true; // whether a value or a key is
  while (at < text.length) {
    const char = text[at];
    if (' \t\r\n'.includes(char)) {
      at += 1;
    } else if (char === ',' || char === ':') {
      at += 1;
      due = true;
    } else if (char === '}' || char === ']') {
      at += 1;
      due = false;
      depth -= 1;
      if (depth <= 0) return at;
    } else if (!due) {
      return at;
    } else if (char === '{' || char === '[') {
      at += 1;
      depth += 1;
    } else {
      const end = endOfScalar(text, at, escape);
      if (end < 0) return at;
      at = end;
      due = false;
    }
  }
  return at;
}

/** What `run` gives; what cannot be read in it goes at least as far as the value at `at`. */
export function pastFaults(text, at, run, escape = '') {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    throw new BadCall(error.message, Math.max(error.position, past(text, at, escape)), error.begin);
  }
}

/** Where a string or a word ends; -1 where there is none. */
function endOfScalar(text, at, escape) {
  if (escape && text.startsWith(escape, at)) {
    const end = text.indexOf(escape, at + escape.length);
    return end < 0 ? text.length : end + escape.length;
  }
  const quote = text[at];
  if (quote !== '"' && quote !== "'") {
    const word = matchAt(WORD, text, at);
    return word === null ? -1 : at + word.length;
  }
  for (let next = at + 1; next < text.length; ) {
    next += (matchAt(PLAIN[quote], text, next) ?? '').length;
    if (text[next] === quote) return next + 1;
    next += 2; // an escape
  }
  return text.length;
}
