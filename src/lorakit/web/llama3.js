/**
 * The JSON tool calls of Llama 3.1, 3.2 and 3.3.
 *
 *     {"name": "get_weather", "parameters": {"city": "Oslo"}}
 *
 * The whole reply is the call, with <|python_tag|> before it in some settings. JSON that is no call
 * stays text. Sources: Meta's Llama 3.1 prompt format page and the models' chat templates.
 */

import { namesAFunction } from './generic.js';
import { growing, readCall, skipSpace } from './jsoncall.js';
import { mendCalls } from './mending.js';
import { BadCall, NO_CALLS, formatOf, syntaxOf, takeApart } from './scanning.js';
import { SPACES } from './spaces.js';
import { escaped, sequence, unfinished } from './tags.js';

const TAG = '<|python_tag|>';
const STOPS = ['<|eom_id|>', '<|eot_id|>'];
const KEYS = ['parameters', 'arguments'];
const FIRST_KEYS = ['name', 'type', 'function', 'parameters', 'arguments'];
const SPACE = `[${SPACES}]*`;
const LIKE_A_CALL = new RegExp(`\\{${SPACE}"(?:${FIRST_KEYS.join('|')})"${SPACE}:`, 'y');
const BEGINS_LIKE_A_CALL = unfinished(FIRST_KEYS.map((key) => sequence('{', SPACE, `"${key}"`, SPACE, ':')));
const MAY_LEAD = new RegExp(`[ \\t\\r\\n]*(?:${BEGINS_LIKE_A_CALL})?$`, 'y');

const BETWEEN = `(?:[;${SPACES}]|${[TAG, ...STOPS].map(escaped).join('|')})*`;

const syntax = syntaxOf({
  find: (reply, at) => reply.indexOf(TAG, at),
  read,
  lead,
  openings: [TAG],
  mayLead,
  revises: true,
  growing: growing(`(?:${SPACE}\\})?${BETWEEN}`, KEYS, { certain: true }),
  mend,
});

/** Where JSON like a call begins at a position, after white space; -1 for other words. */
function lead(reply, at) {
  LIKE_A_CALL.lastIndex = skipSpace(reply, at);
  const start = LIKE_A_CALL.lastIndex;
  return LIKE_A_CALL.test(reply) ? start : -1;
}

function mayLead(reply, at) {
  MAY_LEAD.lastIndex = at;
  return MAY_LEAD.test(reply);
}

/** Calls until the end or the first fault; from there on the rest is one malformed part. */
function read(reply, at, calls) {
  let start = next(reply, at);
  if (start === reply.length) throw new BadCall('no call follows', start);
  let any = calls.length > 0;
  while (start < reply.length) {
    try {
      const found = readCall(reply, start, KEYS, { required: true });
      at = found.end;
      calls.push({ name: found.name, arguments: found.arguments });
      any = true;
    } catch (error) {
      if (!(error instanceof BadCall)) throw error;
      throw new BadCall(error.message, error.position, any ? start : at);
    }
    start = next(reply, at);
  }
  return start;
}

function mend(text) {
  const closed = STOPS.some((stop) => text.endsWith(stop));
  return mendCalls(text, KEYS, { required: true, closed, between: new RegExp(BETWEEN, 'y') });
}

/** Past white space, `;`, a repeated tag and stop tokens. */
function next(reply, at) {
  for (;;) {
    at = skipSpace(reply, at);
    const token = [';', TAG, ...STOPS].find((mark) => reply.startsWith(mark, at));
    if (!token) return at;
    at += token.length;
  }
}

function parse(reply, { reasons = false, repair = false } = {}) {
  const parsed = takeApart(reply, syntax, { reasons, repair });
  const broken = parsed.malformed.map((part) => part.text).join('');
  if (!broken || parsed.calls.length || reply.includes(TAG) || namesAFunction(broken)) return parsed;
  return takeApart(reply, NO_CALLS, { reasons });
}

export const LLAMA3 = formatOf('llama3', syntax, { stops: STOPS, parse });
