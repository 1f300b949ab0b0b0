/**
 * Llama 3's tagged tool calls: a name in a tag, and JSON after it.
 *
 *     <function=get_weather>{"city": "Oslo"}</function>
 *
 * Sources: Meta's Llama 3.1 prompt format page and the template of functionary-medium-v3.1.
 */

import { growingAs } from './arguments.js';
import { skipSpace } from './jsoncall.js';
import { checkedCall, close, readArguments } from './jsonlist.js';
import { mendNamed } from './mending.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES, matchAt } from './spaces.js';

const OPEN = '<function=';
const CLOSE = '</function>';
const STOPS = ['<|eom_id|>', '<|eot_id|>'];
const NAME = new RegExp(`[^${SPACES}<>\\x00]+`, 'y');

const growing = growingAs(`${OPEN}(?<name>${NAME.source})>`, `[${SPACES}]*(?=\\{)`);

function read(reply, start, calls) {
  const begin = start + OPEN.length;
  const name = matchAt(NAME, reply, begin);
  if (name === null) throw new BadCall('the function has no name', begin);
  const after = begin + name.length;
  if (reply[after] !== '>') throw new BadCall("expected '>' after the name", after);
  const { end: last, value } = readArguments(reply, skipSpace(reply, after + 1));
  const end = close(reply, last, CLOSE, [OPEN, ...STOPS]);
  calls.push(checkedCall(name, value, end));
  return end;
}

export const LLAMA3_FUNCTION = formatOf(
  'llama3_function',
  syntaxOf({
    find: (reply, at) => reply.indexOf(OPEN, at),
    read,
    closing: CLOSE,
    stops: STOPS,
    openings: [OPEN],
    growing,
    mend: (text) => mendNamed(text, growing.name, { close: CLOSE, stops: STOPS }),
  }),
);
