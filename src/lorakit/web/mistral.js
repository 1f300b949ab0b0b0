/**
 * Mistral's tool calls: a JSON list after [TOOL_CALLS], or [TOOL_CALLS]name[ARGS]{...} for each.
 * Sources: as in chat/formats/mistral.py.
 */

import { checkCall, isObject, readValue, skipSpace } from './jsoncall.js';
import { readList } from './jsonlist.js';
import { BadCall, SPACES, takeApart } from './scanning.js';

const TAG = '[TOOL_CALLS]';
const ID = '[CALL_ID]';
const ARGUMENTS = '[ARGS]';
const STOPS = ['</s>'];
const NAME = new RegExp(`[^${SPACES}\\[\\]{}\\x00]+`, 'y');
const IDENTITY = /[A-Za-z0-9]+/y;

const syntax = { find: (reply, at) => reply.indexOf(TAG, at), read };

function read(reply, start, calls) {
  let at = skipSpace(reply, start + TAG.length);
  if ('[{'.includes(reply[at] ?? ' ') && !reply.startsWith(ARGUMENTS, at)) return readList(reply, at, calls);
  NAME.lastIndex = at;
  const name = NAME.exec(reply)?.[0];
  if (!name) throw new BadCall('expected a list of calls or a name', at);
  at = skipSpace(reply, at + name.length);
  if (reply.startsWith(ID, at)) {
    IDENTITY.lastIndex = at + ID.length;
    if (!IDENTITY.test(reply)) throw new BadCall(`expected an identity after ${ID}`, at + ID.length);
    at = skipSpace(reply, IDENTITY.lastIndex);
  }
  if (reply.startsWith(ARGUMENTS, at)) at = skipSpace(reply, at + ARGUMENTS.length);
  else if (reply[at] !== '{') throw new BadCall(`expected ${ARGUMENTS} after the name`, at);
  const { end, value } = readValue(reply, at);
  if (!isObject(value)) throw new BadCall('the arguments must be an object', end);
  checkCall(name, value, end);
  calls.push({ name, arguments: value });
  return end;
}

const format = (name) => ({
  name,
  openings: [TAG],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
});

export const MISTRAL = format('mistral');
export const MISTRAL11 = format('mistral11');
