/**
 * The tool calls of DeepSeek R1 and its distilled models: fenced JSON between tokens.
 * Sources: as in chat/formats/deepseek.py.
 */

import { checkCall, isObject, readValue, skipSpace } from './jsoncall.js';
import { from } from './jsonlist.js';
import { BadCall, SPACES, takeApart } from './scanning.js';

const BEGIN = '<｜tool▁calls▁begin｜>';
const END = '<｜tool▁calls▁end｜>';
const CALL = '<｜tool▁call▁begin｜>';
const SEPARATOR = '<｜tool▁sep｜>';
const CALL_END = '<｜tool▁call▁end｜>';
const STOPS = ['<｜end▁of▁sentence｜>'];
const OPENING = new RegExp(`${BEGIN}|${CALL}`, 'g');
const TYPE = /[a-z_]*/y;
const NAME = new RegExp(`[^${SPACES}<>\`{}\\x00]+`, 'y');

const syntax = { find, read, closing: END };

function find(reply, at) {
  OPENING.lastIndex = at;
  return OPENING.exec(reply)?.index ?? -1;
}

/** All calls from an opening on; from a fault on, the rest is malformed. */
function read(reply, start, calls) {
  let at = start;
  let begin = start;
  if (reply.startsWith(BEGIN, start)) at = skipSpace(reply, start + BEGIN.length);
  for (;;) {
    const here = at;
    const found = from(begin, () => one(reply, here));
    calls.push({ name: found.name, arguments: found.arguments });
    at = skipSpace(reply, found.end);
    begin = at;
    if (reply.startsWith(END, at)) return at + END.length;
    const next = at;
    if (at === reply.length || [BEGIN, ...STOPS].some((mark) => reply.startsWith(mark, next))) return at;
    if (!reply.startsWith(CALL, at)) throw new BadCall(`expected ${END} or another call`, at, at);
  }
}

function one(reply, at) {
  TYPE.lastIndex = expect(reply, at, CALL);
  TYPE.exec(reply);
  NAME.lastIndex = expect(reply, TYPE.lastIndex, SEPARATOR);
  const named = NAME.lastIndex;
  const name = NAME.exec(reply)?.[0];
  if (!name) throw new BadCall('the function has no name', named);
  at = skipSpace(reply, named + name.length);
  const fenced = reply.startsWith('```', at);
  if (fenced) at = skipSpace(reply, expect(reply, at, '```json'));
  const { end, value } = readValue(reply, at);
  if (!isObject(value)) throw new BadCall('the arguments must be an object', end);
  at = fenced ? expect(reply, skipSpace(reply, end), '```') : end;
  at = expect(reply, skipSpace(reply, at), CALL_END);
  checkCall(name, value, at);
  return { end: at, name, arguments: value };
}

function expect(reply, at, text) {
  if (!reply.startsWith(text, at)) throw new BadCall(`expected ${text}`, at);
  return at + text.length;
}

export const DEEPSEEK = {
  name: 'deepseek',
  openings: [BEGIN, CALL],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
};
