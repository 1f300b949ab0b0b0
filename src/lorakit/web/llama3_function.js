/**
 * Llama 3's tagged tool calls: <function=name>{...}</function>.
 * Sources: as in chat/formats/llama3_function.py.
 */

import { checkCall, isObject, readValue, skipSpace } from './jsoncall.js';
import { close } from './jsonlist.js';
import { BadCall, SPACES, takeApart } from './scanning.js';

const OPEN = '<function=';
const CLOSE = '</function>';
const STOPS = ['<|eom_id|>', '<|eot_id|>'];
const NAME = new RegExp(`[^${SPACES}<>\\x00]+`, 'y');

const syntax = { find: (reply, at) => reply.indexOf(OPEN, at), read, closing: CLOSE };

function read(reply, start, calls) {
  NAME.lastIndex = start + OPEN.length;
  const name = NAME.exec(reply)?.[0];
  if (!name) throw new BadCall('the function has no name', start + OPEN.length);
  const after = NAME.lastIndex;
  if (reply[after] !== '>') throw new BadCall("expected '>' after the name", after);
  const { end, value } = readValue(reply, skipSpace(reply, after + 1));
  if (!isObject(value)) throw new BadCall('the arguments must be an object', end);
  const closed = close(reply, end, CLOSE, [OPEN, ...STOPS]);
  checkCall(name, value, closed);
  calls.push({ name, arguments: value });
  return closed;
}

export const LLAMA3_FUNCTION = {
  name: 'llama3_function',
  openings: [OPEN],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
};
