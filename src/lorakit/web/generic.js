/**
 * Calls as plain JSON: what a model writes whose template asks for it and has no tags for it.
 *
 *     {"name": "get_weather", "arguments": {"city": "Oslo"}}
 *
 * A list of such objects, and either in a fence (```json), are read too. As in Llama 3's format, the
 * whole reply is the call: JSON within words is an answer, and so is JSON that names no function.
 */

import { growing, skipSpace } from './jsoncall.js';
import { KEYS, faultsFrom, fromItsBeginning, readList } from './jsonlist.js';
import { LIST, mendCalls } from './mending.js';
import { NO_CALLS, formatOf, syntaxOf, takeApart } from './scanning.js';
import { SPACES, matchAt } from './spaces.js';
import { sequence, unfinished } from './tags.js';

const FENCE = '```';
const FIRST_KEYS = ['name', 'arguments', 'parameters'];
const SPACE = '[ \\t\\r\\n]*';
const ANY_SPACE = `[${SPACES}]*`;
const LIKE_A_CALL = new RegExp(
  `(?:${FENCE}(?:json)?${SPACE})?(?:\\[${SPACE})?\\{${SPACE}"(?:${FIRST_KEYS.join('|')})"${SPACE}:`,
  'y',
);
const FENCES = [[], [FENCE, ANY_SPACE], [`${FENCE}json`, ANY_SPACE]];
const BEGINNINGS = FENCES.flatMap((fence) =>
  [[], ['[', ANY_SPACE]].flatMap((bracket) =>
    FIRST_KEYS.map((key) => sequence(...fence, ...bracket, '{', ANY_SPACE, `"${key}"`, ANY_SPACE, ':')),
  ),
);
const MAY_LEAD = new RegExp(`${SPACE}(?:${unfinished(BEGINNINGS)})?$`, 'y');

const BETWEEN =
  `${ANY_SPACE}(?:${FENCE}(?:json)?${ANY_SPACE})?(?:\\}${ANY_SPACE})?` +
  `(?:\\]${ANY_SPACE})?[,;]?${ANY_SPACE}\\[?${ANY_SPACE}`;

function lead(reply, at) {
  const start = skipSpace(reply, at);
  return matchAt(LIKE_A_CALL, reply, start) === null ? -1 : start;
}

/** Calls until the end or the first fault; from there on the rest is one malformed part. */
function read(reply, start, calls) {
  let at = start;
  let fenced = reply.startsWith(FENCE, at);
  if (fenced) {
    at += FENCE.length;
    at = skipSpace(reply, at + (reply.startsWith('json', at) ? 4 : 0));
  }
  while (at < reply.length) {
    const begin = calls.length ? at : start;
    if (fenced && reply.startsWith(FENCE, at)) {
      at = skipSpace(reply, at + FENCE.length);
      fenced = false;
      continue;
    }
    const from = at;
    at = next(reply, faultsFrom(begin, () => readList(reply, from, calls, { required: true })));
  }
  return at;
}

function mend(text) {
  const { calls, done } = mendCalls(fromItsBeginning(text), KEYS, { required: true, closed: false, between: /[ \t\r\n,;]*/y });
  return { calls, done: done.filter((words) => words !== LIST) };
}

/** Past white space and what may stand between calls. */
function next(reply, at) {
  at = skipSpace(reply, at);
  return reply[at] === ',' || reply[at] === ';' ? skipSpace(reply, at + 1) : at;
}

const syntax = syntaxOf({
  find: () => -1,
  read,
  lead,
  mayLead: (reply, at) => matchAt(MAY_LEAD, reply, at) !== null,
  revises: true,
  growing: growing(BETWEEN, KEYS, { certain: true }),
  mend,
});

function parse(reply, options = {}) {
  const parsed = takeApart(reply, syntax, options);
  const broken = parsed.malformed.map((part) => part.text).join('');
  if (!broken || parsed.calls.length || namesAFunction(broken)) return parsed;
  return takeApart(reply, NO_CALLS, options);
}

/** Whether a faulty JSON reply was meant as a call, not as an answer in JSON. */
export function namesAFunction(body) {
  return body.includes('"name"') && (body.includes('"parameters"') || body.includes('"arguments"'));
}

export const GENERIC = formatOf('json', syntax, { parse });
