/**
 * Calls as a JSON list, [{"name": ..., "arguments": {...}}, ...], which several formats share. Where
 * a model writes one call without the list around it, that is read too.
 */

import { readOrPass } from './broken.js';
import { checkCall, growing, readCall, readValue, skipSpace } from './jsoncall.js';
import { CLOSING, LIST, mendCalls } from './mending.js';
import { BadCall } from './scanning.js';
import { SPACES, strip, without } from './spaces.js';

export const KEYS = ['arguments', 'parameters'];

/**
 * The calls of the list, or the one call, at a position, appended one by one; where they end.
 * required: whether a call without arguments is none. Throws BadCall.
 * @param {string} text @param {number} at @param {import('./scanning.js').Call[]} calls
 * @param {{required?: boolean}} [options] @returns {number}
 */
export function readList(text, at, calls, { required = false } = {}) {
  const append = (start) => {
    const found = readCall(text, start, KEYS, { required });
    calls.push({ name: found.name, arguments: found.arguments });
    return skipSpace(text, found.end);
  };
  at = skipSpace(text, at);
  return text[at] === '[' ? readOrPass(text, at, () => readItems(text, at + 1, append)) : append(at);
}

/** The calls of a list from behind its opening bracket on; where the list ends. */
function readItems(text, at, append) {
  at = skipSpace(text, at);
  if (text[at] === ']') throw new BadCall('the list of calls is empty', at);
  at = append(at);
  while (text[at] !== ']') {
    if (text[at] !== ',') throw new BadCall("expected ',' or ']' after a call", at, at);
    const begin = skipSpace(text, at + 1);
    at = faultsFrom(begin, () => append(begin));
  }
  return at + 1;
}

/** How the calls of such a list are told while they are written. @param {string} opening a pattern */
export function growingList(opening) {
  const space = `[${SPACES}]*`;
  return growing(`(?:(?:${opening})${space}\\[?|${space}\\}${space},)${space}`, KEYS);
}

/**
 * What was meant by a list that cannot be read, and what was mended.
 * @param {string} text @param {{open?: string, close: string, stops: string[]}} marks
 */
export function mendList(text, marks) {
  const { body, closed } = without(text, marks);
  const { calls, done } = mendCalls(fromItsBeginning(body), KEYS, { required: false, closed });
  const told = done.filter((words) => words !== LIST);
  return { calls, done: told.length ? told : [CLOSING] };
}

/**
 * The end of a list as a list: where the first calls of one were read, what is left to mend begins in
 * its midst. @param {string} text
 */
export function fromItsBeginning(text) {
  const body = strip(text);
  return body.startsWith('{') && body.endsWith(']') ? `[${body}` : body;
}

/** What `run` gives; what cannot be read in it began at `begin`, unless it says where. */
export function faultsFrom(begin, run) {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    throw new BadCall(error.message, error.position, error.begin ?? begin);
  }
}

/** After the closing tag, which may be missing at the end or before what may follow a call. */
export function close(text, at, closing, follow) {
  at = skipSpace(text, at);
  if (text.startsWith(closing, at)) return at + closing.length;
  if (at < text.length && !follow.some((mark) => text.startsWith(mark, at))) throw new BadCall(`expected ${closing} after the call`, at);
  return at;
}

/** The arguments that stand as a JSON object at a position, and their end. Throws BadCall. */
export function readArguments(text, at) {
  const { end, value } = readValue(text, at);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new BadCall('the arguments must be an object', end);
  return { end, value };
}

/** A call, once its name and arguments can be said in messages. Throws BadCall. */
export function checkedCall(name, given, end) {
  checkCall(name, given, end);
  return { name, arguments: given };
}
