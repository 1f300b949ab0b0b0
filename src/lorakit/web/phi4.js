/**
 * The tool calls of Phi 4 mini: a JSON list between tags.
 *
 *     <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>
 *
 * Under some templates the model writes `functools[...]` instead, or one call without its list: both
 * are read. Sources: the model card of Phi-4-mini-instruct, and the templates of llama.cpp and vLLM.
 */

import { close, faultsFrom, growingList, mendList, readList } from './jsonlist.js';
import { formatOf, syntaxOf } from './scanning.js';
import { searchFrom } from './spaces.js';
import { escaped } from './tags.js';

const OPEN = '<|tool_call|>';
const CLOSE = '<|/tool_call|>';
const BARE = 'functools[';
const STOPS = ['<|end|>', '<|endoftext|>'];
const OPENING = /<\|tool_call\|>|functools\[/g;

function read(reply, start, calls) {
  if (reply.startsWith(BARE, start)) return readList(reply, start + BARE.length - 1, calls);
  const end = readList(reply, start + OPEN.length, calls);
  return faultsFrom(end, () => close(reply, end, CLOSE, [OPEN, ...STOPS]));
}

function mend(text) {
  if (text.startsWith(BARE)) return mendList(text.slice(BARE.length - 1), { close: '', stops: STOPS });
  return mendList(text, { open: OPEN, close: CLOSE, stops: STOPS });
}

export const PHI4 = formatOf(
  'phi4',
  syntaxOf({
    find: (reply, at) => searchFrom(OPENING, reply, at)?.index ?? -1,
    read,
    closing: CLOSE,
    stops: STOPS,
    openings: [OPEN, BARE],
    growing: growingList(`${escaped(OPEN)}|functools`),
    mend,
  }),
);
