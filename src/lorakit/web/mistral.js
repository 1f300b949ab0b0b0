/**
 * Mistral's two tool formats: a JSON list after a tag (to 2025), and a tag before each call.
 *
 *     [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
 *     [TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
 *
 * Both read either form. Sources: the chat templates of Mistral 7B v0.3, Nemo, Small 3.1 and 3.2 and
 * Devstral, mistral-common.
 */

import { skipSpace } from './jsoncall.js';
import { checkedCall, readArguments, readList } from './jsonlist.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES, matchAt } from './spaces.js';

const TAG = '[TOOL_CALLS]';
const ID = '[CALL_ID]';
const ARGUMENTS = '[ARGS]';
const NAME = new RegExp(`[^${SPACES}\\[\\]{}\\x00]+`, 'y');
const IDENTITY = /[A-Za-z0-9]+/y;

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

const syntax = syntaxOf({ find: (reply, at) => reply.indexOf(TAG, at), read, stops: ['</s>'], openings: [TAG] });

export const MISTRAL = formatOf('mistral', syntax);
export const MISTRAL11 = formatOf('mistral11', syntax);
