/**
 * Calls as a JSON list, [{"name": ..., "arguments": {...}}, ...], which several formats share, or one
 * without the list around it: the rules of chat/formats/jsonlist.py.
 */

import { readCall, skipSpace } from './jsoncall.js';
import { BadCall } from './scanning.js';

const KEYS = ['arguments', 'parameters'];

/**
 * The end of the list, or the one call, at a position; its calls are appended one by one.
 * @param {string} text @param {number} at @param {import('./scanning.js').Call[]} calls
 * @param {{required?: boolean}} [options] required: whether a call without arguments is none
 */
export function readList(text, at, calls, { required = false } = {}) {
  at = skipSpace(text, at);
  if (text[at] !== '[') return append(text, at, calls, required);
  at = skipSpace(text, at + 1);
  if (text[at] === ']') throw new BadCall('the list of calls is empty', at);
  at = append(text, at, calls, required);
  while (text[at] !== ']') {
    if (text[at] !== ',') throw new BadCall("expected ',' or ']' after a call", at, at);
    const begin = skipSpace(text, at + 1);
    at = from(begin, () => append(text, begin, calls, required));
  }
  return at + 1;
}

/** After the closing tag, which may be missing at the end or before what may follow a call. */
export function close(text, at, closing, follow) {
  at = skipSpace(text, at);
  if (text.startsWith(closing, at)) return at + closing.length;
  if (at < text.length && !follow.some((mark) => text.startsWith(mark, at)))
    throw new BadCall(`expected ${closing} after the call`, at);
  return at;
}

/** What `read` gives; a fault in it began at `begin`. */
export function from(begin, read) {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    throw new BadCall(error.message, error.position, begin);
  }
}

function append(text, at, calls, required) {
  const { end, name, arguments: given } = readCall(text, at, KEYS, { required });
  calls.push({ name, arguments: given });
  return skipSpace(text, end);
}
