/**
 * The tool calls of DeepSeek R1 and its distilled models: JSON in a fence, between tokens.
 *
 *     <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
 *     ```json
 *     {"city": "Oslo"}
 *     ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
 *
 * Further calls stand on lines of their own. The fence, and the tokens around all calls, may be
 * missing. Sources: the chat templates of DeepSeek-R1 and of its distilled models.
 */

import { growingAs } from './arguments.js';
import { skipSpace } from './jsoncall.js';
import { checkedCall, faultsFrom, readArguments } from './jsonlist.js';
import { callOf, mendArguments } from './mending.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES, matchAt, searchFrom, strip, without } from './spaces.js';

const BEGIN = '<｜tool▁calls▁begin｜>';
const END = '<｜tool▁calls▁end｜>';
const CALL = '<｜tool▁call▁begin｜>';
const SEPARATOR = '<｜tool▁sep｜>';
const CALL_END = '<｜tool▁call▁end｜>';
const STOPS = ['<｜end▁of▁sentence｜>'];
const OPENING = new RegExp(`${BEGIN}|${CALL}`, 'g');
const TYPE = /[a-z_]*/y;
const NAME = new RegExp(`[^${SPACES}<>\`{}\\x00]+`, 'y');

const SPACE = `[${SPACES}]*`;
const growing = growingAs(
  `(?:${SPACE}(?:\`\`\`)?${SPACE}${CALL_END}${SPACE})?(?:${BEGIN}${SPACE})?` +
    `${CALL}[a-z_]*${SEPARATOR}(?<name>${NAME.source})(?=[${SPACES}\`{])`,
  `${SPACE}(?:\`\`\`json${SPACE})?(?=\\{)`,
);

/** All calls from an opening on; from a fault on, the rest is malformed. */
function read(reply, start, calls) {
  let at = start;
  let begin = start;
  if (reply.startsWith(BEGIN, start)) at = skipSpace(reply, start + BEGIN.length);
  for (;;) {
    const { end, call } = faultsFrom(begin, () => readOne(reply, at));
    calls.push(call);
    at = begin = skipSpace(reply, end);
    if (reply.startsWith(END, at)) return at + END.length;
    if (at === reply.length || [BEGIN, ...STOPS].some((mark) => reply.startsWith(mark, at))) return at;
    if (!reply.startsWith(CALL, at)) throw new BadCall(`expected ${END} or another call`, at, at);
  }
}

function readOne(reply, at) {
  at = expect(reply, at, CALL);
  at = expect(reply, at + matchAt(TYPE, reply, at).length, SEPARATOR);
  const name = matchAt(NAME, reply, at);
  if (name === null) throw new BadCall('the function has no name', at);
  at = skipSpace(reply, at + name.length);
  const fenced = reply.startsWith('```', at);
  if (fenced) at = skipSpace(reply, expect(reply, at, '```json'));
  const { end, value } = readArguments(reply, at);
  at = fenced ? expect(reply, skipSpace(reply, end), '```') : end;
  at = expect(reply, skipSpace(reply, at), CALL_END);
  return { end: at, call: checkedCall(name, value, at) };
}

function expect(reply, at, text) {
  if (!reply.startsWith(text, at)) throw new BadCall(`expected ${text}`, at);
  return at + text.length;
}

/** A single call; several are left as they are. */
function mend(text) {
  growing.name.lastIndex = 0;
  const head = growing.name.exec(text);
  if (!head || text.split(CALL).length > 2) throw new BadCall('it is not one call with a name', 0);
  const inner = without(text.slice(head[0].length), { close: '', stops: [...STOPS, END] });
  const { body, closed } = without(inner.body, { close: CALL_END, stops: [] });
  const fenced = strip(body).replace(/^```json/, '').replace(/```$/, '');
  return callOf(head.groups.name, mendArguments(fenced, { closed }));
}

export const DEEPSEEK = formatOf(
  'deepseek',
  syntaxOf({
    find: (reply, at) => searchFrom(OPENING, reply, at)?.index ?? -1,
    read,
    closing: END,
    stops: STOPS,
    openings: [BEGIN, CALL],
    growing,
    mend,
  }),
);
