/**
 * The tool calls of IBM's Granite 3.0 to 3.3: a JSON list after a tag.
 *
 *     <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]
 *
 * `<tool_call>` in its place is read too, as is one call without its list. Granite 4 writes as Hermes
 * does. Sources: the models' chat templates and IBM's prompt engineering guide.
 */

import { close, faultsFrom, growingList, mendList, readList } from './jsonlist.js';
import { formatOf, syntaxOf } from './scanning.js';
import { searchFrom } from './spaces.js';
import { escaped } from './tags.js';

const OPEN = '<|tool_call|>';
const [OPENING, CLOSING] = ['<tool_call>', '</tool_call>'];
const STOPS = ['<|end_of_text|>'];
const EITHER = /<\|tool_call\|>|<tool_call>/g;

function read(reply, start, calls) {
  if (reply.startsWith(OPEN, start)) return readList(reply, start + OPEN.length, calls);
  const end = readList(reply, start + OPENING.length, calls);
  return faultsFrom(end, () => close(reply, end, CLOSING, [OPEN, OPENING, ...STOPS]));
}

function mend(text) {
  const open = text.startsWith(OPEN) ? OPEN : OPENING;
  return mendList(text, { open, close: open === OPEN ? '' : CLOSING, stops: STOPS });
}

export const GRANITE = formatOf(
  'granite',
  syntaxOf({
    find: (reply, at) => searchFrom(EITHER, reply, at)?.index ?? -1,
    read,
    stops: STOPS,
    openings: [OPEN, OPENING],
    growing: growingList(`${escaped(OPEN)}|${OPENING}`),
    mend,
  }),
);
