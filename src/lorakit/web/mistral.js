/**
 * Mistral's two tool formats: a JSON list after a tag (to 2025), and a tag before each call.
 *
 *     [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
 *     [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
 *
 * Both read either form. Sources: the chat templates of Mistral 7B v0.3, Nemo, Small 3.1 and 3.2 and
 * Devstral, mistral-common.
 */

import { growingAs } from './arguments.js';
import { skipSpace } from './jsoncall.js';
import { checkedCall, growingList, mendList, readArguments, readList } from './jsonlist.js';
import { callOf, mendArguments } from './mending.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES, matchAt, without } from './spaces.js';
import { escaped } from './tags.js';

const TAG = '[TOOL_CALLS]';
const ID = '[CALL_ID]';
const ARGUMENTS = '[ARGS]';
const NAME = new RegExp(`[^${SPACES}\\[\\]{}\\x00]+`, 'y');
const IDENTITY = /[A-Za-z0-9]+/y;

const SPACE = `[${SPACES}]*`;
const STOPS = ['</s>'];
const growing = growingAs(
  `${escaped(TAG)}${SPACE}(?<name>${NAME.source})(?=${SPACE}[[{])`,
  `${SPACE}(?:\\[CALL_ID\\][A-Za-z0-9]+${SPACE})?(?:\\[ARGS\\]${SPACE})?(?=\\{)`,
);

function read(reply, start, calls) {
  let at = skipSpace(reply, start + TAG.length);
  if ((reply[at] === '[' || reply[at] === '{') && !reply.startsWith(ARGUMENTS, at)) return readList(reply, at, calls);
  const name = matchAt(NAME, reply, at);
  if (name === null) throw new BadCall('expected a list of calls or a name', at);
  at = skipSpace(reply, at + name.length);
  if (reply.startsWith(ID, at)) {
    const identity = matchAt(IDENTITY, reply, at + ID.length);
    if (identity === null) throw new BadCall(`expected an identity after ${ID}`, at + ID.length);
    at = skipSpace(reply, at + ID.length + identity.length);
  }
  if (reply.startsWith(ARGUMENTS, at)) at = skipSpace(reply, at + ARGUMENTS.length);
  else if (reply[at] !== '{') throw new BadCall(`expected ${ARGUMENTS} after the name`, at);
  const { end, value } = readArguments(reply, at);
  calls.push(checkedCall(name, value, end));
  return end;
}

function mend(text) {
  growing.name.lastIndex = 0;
  const head = growing.name.exec(text);
  if (!head) return mendList(text, { open: TAG, close: '', stops: STOPS });
  const follows = matchAt(growing.args, text, head[0].length) ?? '';
  const { body } = without(text.slice(head[0].length + follows.length), { close: '', stops: STOPS });
  return callOf(head.groups.name, mendArguments(body, { closed: false }));
}

const parts = { find: (reply, at) => reply.indexOf(TAG, at), read, stops: STOPS, openings: [TAG], mend };

export const MISTRAL = formatOf('mistral', syntaxOf({ ...parts, growing: growingList(escaped(TAG)) }));
export const MISTRAL11 = formatOf('mistral11', syntaxOf({ ...parts, growing }));
