/**
 * Calls as plain JSON, in a list or a fence or neither: the rules of chat/formats/generic.py.
 */

import { skipSpace } from './jsoncall.js';
import { readList } from './jsonlist.js';
import { BadCall, NO_CALLS, takeApart } from './scanning.js';

const FENCE = '```';
const SPACE = '[ \\t\\r\\n]*';
const LIKE_A_CALL = new RegExp(
  `(?:${FENCE}(?:json)?${SPACE})?(?:\\[${SPACE})?\\{${SPACE}"(?:name|arguments|parameters)"${SPACE}:`,
  'y',
);

const syntax = { find: () => -1, read, lead };

function lead(reply, at) {
  const start = skipSpace(reply, at);
  LIKE_A_CALL.lastIndex = start;
  return LIKE_A_CALL.test(reply) ? start : -1;
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
    try {
      at = readList(reply, at, calls, { required: true });
    } catch (error) {
      if (!(error instanceof BadCall)) throw error;
      throw new BadCall(error.message, error.position, error.begin ?? begin);
    }
    at = skipSpace(reply, at);
    if (reply[at] === ',' || reply[at] === ';') at = skipSpace(reply, at + 1);
  }
  return at;
}

function parse(reply, { reasons = false } = {}) {
  const parsed = takeApart(reply, syntax, { reasons });
  const broken = parsed.malformed.map((part) => part.text).join('');
  if (!broken || parsed.calls.length || namesAFunction(broken)) return parsed;
  return takeApart(reply, NO_CALLS, { reasons });
}

function namesAFunction(body) {
  return body.includes('"name"') && (body.includes('"parameters"') || body.includes('"arguments"'));
}

export const GENERIC = { name: 'json', openings: [], stops: [], parse };
