/**
 * The tool calls of Hermes 2 Pro, which Qwen 2.5 and Qwen 3 use too: JSON between tags.
 *
 *     <tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>
 *
 * Sources: the Hermes Function Calling readme (NousResearch) and Qwen's chat templates.
 */

import { growing, readCall, skipSpace } from './jsoncall.js';
import { close } from './jsonlist.js';
import { CLOSING, mendCalls } from './mending.js';
import { formatOf, syntaxOf } from './scanning.js';
import { SPACES, without } from './spaces.js';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const STOPS = ['<|im_end|>'];
const KEYS = ['arguments', 'parameters'];

const syntax = syntaxOf({
  find: (reply, at) => reply.indexOf(OPEN, at),
  read,
  closing: CLOSE,
  stops: STOPS,
  openings: [OPEN],
  growing: growing(`${OPEN}[${SPACES}]*`, KEYS),
  mend,
});

/** The call at an opening tag; its closing tag may be cut off at the end of the reply. */
function read(reply, start, calls) {
  const begin = skipSpace(reply, start + OPEN.length);
  const found = readCall(reply, begin, KEYS, { required: false });
  const end = close(reply, found.end, CLOSE, [OPEN, ...STOPS]);
  calls.push({ name: found.name, arguments: found.arguments });
  return end;
}

function mend(text) {
  const { body, closed } = without(text, { open: OPEN, close: CLOSE, stops: STOPS });
  const { calls, done } = mendCalls(body, KEYS, { required: false, closed });
  return { calls, done: done.length ? done : [CLOSING] };
}

export const HERMES = formatOf('hermes', syntax);
