/**
 * The tool calls of Granite 3.0 to 3.3: <|tool_call|>[{"name": ..., "arguments": {...}}].
 * Sources: as in chat/formats/granite.py.
 */

import { close, from, readList } from './jsonlist.js';
import { takeApart } from './scanning.js';

const OPEN = '<|tool_call|>';
const PAIR = ['<tool_call>', '</tool_call>'];
const STOPS = ['<|end_of_text|>'];
const OPENING = /<\|tool_call\|>|<tool_call>/g;

const syntax = { find, read };

function find(reply, at) {
  OPENING.lastIndex = at;
  return OPENING.exec(reply)?.index ?? -1;
}

function read(reply, start, calls) {
  const [opening, closing] = PAIR;
  if (reply.startsWith(OPEN, start)) return readList(reply, start + OPEN.length, calls);
  const end = readList(reply, start + opening.length, calls);
  return from(end, () => close(reply, end, closing, [OPEN, opening, ...STOPS]));
}

export const GRANITE = {
  name: 'granite',
  openings: [OPEN, PAIR[0]],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
};
