/**
 * The tool calls of Phi 4 mini: <|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>, or
 * functools[...]. Sources: as in chat/formats/phi4.py.
 */

import { close, from, readList } from './jsonlist.js';
import { takeApart } from './scanning.js';

const OPEN = '<|tool_call|>';
const CLOSE = '<|/tool_call|>';
const BARE = 'functools[';
const STOPS = ['<|end|>', '<|endoftext|>'];
const OPENING = /<\|tool_call\|>|functools\[/g;

const syntax = { find, read, closing: CLOSE };

function find(reply, at) {
  OPENING.lastIndex = at;
  return OPENING.exec(reply)?.index ?? -1;
}

function read(reply, start, calls) {
  if (reply.startsWith(BARE, start)) return readList(reply, start + BARE.length - 1, calls);
  const end = readList(reply, start + OPEN.length, calls);
  return from(end, () => close(reply, end, CLOSE, [OPEN, ...STOPS]));
}

export const PHI4 = {
  name: 'phi4',
  openings: [OPEN, BARE],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
};
