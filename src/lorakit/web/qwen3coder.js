/**
 * The tool calls of Qwen 3 Coder: tags, and values as bare text. The page knows no types: what is
 * JSON is read as JSON, the rest is text. Sources: as in chat/formats/qwen3coder.py.
 */

import { checkCall, readValue, skipSpace } from './jsoncall.js';
import { BadCall, SPACES, takeApart } from './scanning.js';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const FUNCTION = '<function=';
const FUNCTION_END = '</function>';
const PARAMETER = '<parameter=';
const PARAMETER_END = '</parameter>';
const STOPS = ['<|im_end|>'];
const OPENING = /<tool_call>|<function=/g;
const NAME = new RegExp(`[^${SPACES}<>\\x00]+`, 'y');
const LIKE_JSON = new RegExp(`[${SPACES}[{"0-9tfn-]`);
const PYTHON = new Map([
  ['True', true], ['False', false], ['None', null],
]); // prettier-ignore
const TRIES = 4; // closing tags within a value's JSON texts

const syntax = { find, read, closing: CLOSE };

function find(reply, at) {
  OPENING.lastIndex = at;
  return OPENING.exec(reply)?.index ?? -1;
}

function read(reply, start, calls) {
  let at = reply.startsWith(OPEN, start) ? skipSpace(reply, start + OPEN.length) : start;
  const { end, name } = tag(reply, at, FUNCTION);
  const given = new Map();
  let limit = -1; // where the function ends, unless a value holds that tag
  at = skipSpace(reply, end);
  while (!reply.startsWith(FUNCTION_END, at)) {
    const { end: begin, name: key } = tag(reply, at, PARAMETER);
    if (given.has(key)) throw new BadCall(`the parameter ${quoted(key)} occurs twice`, begin);
    if (limit < begin) limit = endOf(reply, begin, FUNCTION_END);
    const found = parameter(reply, begin, limit);
    given.set(key, found.value);
    at = skipSpace(reply, found.end);
  }
  at = skipSpace(reply, at + FUNCTION_END.length);
  if (reply.startsWith(CLOSE, at)) at += CLOSE.length;
  else {
    const here = at;
    const follows = [OPEN, FUNCTION, ...STOPS].some((mark) => reply.startsWith(mark, here));
    if (at < reply.length && !follows) throw new BadCall(`expected ${CLOSE} after the call`, at);
  }
  const values = Object.fromEntries(given);
  checkCall(name, values, at);
  calls.push({ name, arguments: values });
  return at;
}

/** The name in a tag, and where the tag ends. */
function tag(reply, at, opening) {
  if (!reply.startsWith(opening, at)) throw new BadCall(`expected ${opening}`, at);
  NAME.lastIndex = at + opening.length;
  const name = NAME.exec(reply)?.[0];
  if (!name) throw new BadCall(`a name is missing after ${opening}`, at + opening.length);
  const end = at + opening.length + name.length;
  if (reply[end] !== '>') throw new BadCall("expected '>' after the name", end);
  return { end: end + 1, name };
}

/** The value whose opening tag ends at `start`; JSON may hold the closing tag, then a later one ends it. */
function parameter(reply, start, limit) {
  let close = reply.indexOf(PARAMETER_END, start);
  if (close < 0) throw new BadCall(`a parameter lacks its ${PARAMETER_END}`, reply.length);
  const end = close + PARAMETER_END.length;
  const text = bare(reply.slice(start, close));
  if (!LIKE_JSON.test(reply[start])) return { end, value: valueOf(text) };
  for (let tries = 0; tries < TRIES; tries += 1) {
    const found = wholeJson(reply.slice(start, close));
    if (found) return { end: close + PARAMETER_END.length, value: found.value };
    close = reply.indexOf(PARAMETER_END, close + 1);
    if (close < 0 || close + PARAMETER_END.length > limit) break;
  }
  return { end, value: valueOf(text) };
}

function bare(text) {
  const begun = text.startsWith('\n') ? text.slice(1) : text;
  return begun.endsWith('\n') ? begun.slice(0, -1) : begun;
}

function wholeJson(text) {
  try {
    const { end, value } = readValue(text, skipSpace(text, 0));
    return skipSpace(text, end) === text.length ? { value } : null;
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    return null;
  }
}

function valueOf(text) {
  const word = text.replace(/^[ \t\r\n]+/, '').slice(0, 6);
  for (const [name, value] of PYTHON) {
    if (word.startsWith(name) && skipSpace(text, text.indexOf(name) + name.length) === text.length) return value;
  }
  const found = wholeJson(text);
  return found ? found.value : text;
}

function endOf(reply, at, mark) {
  const found = reply.indexOf(mark, at);
  return found < 0 ? reply.length : found;
}

/** A name as Python shows it. */
function quoted(name) {
  const shown = [...name].slice(0, 40).join('');
  return shown.includes("'") && !shown.includes('"') ? `"${shown}"` : `'${shown}'`;
}

export const QWEN3CODER = {
  name: 'qwen3coder',
  openings: [OPEN, FUNCTION],
  stops: STOPS,
  parse: (reply, { reasons = false } = {}) => takeApart(reply, syntax, { stops: STOPS, reasons }),
};
