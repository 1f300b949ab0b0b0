/**
 * The tool calls of Qwen 3 Coder, Qwen 3 Next and Qwen 3.5: tags, and values as bare text.
 *
 *     <tool_call><function=get_weather><parameter=city>Oslo</parameter></function></tool_call>
 *
 * with a line break after each tag. Whether `90210` is a text or a number, only the declared tool
 * says: `withTools` gives the format that reads by these. Without it, what is JSON is read as JSON and
 * the rest is text. Sources: the chat template of Qwen3-Coder and the parser beside it.
 */

import { growingAs } from './arguments.js';
import { past } from './broken.js';
import { readValue, skipSpace } from './jsoncall.js';
import { checkedCall, close } from './jsonlist.js';
import { CLOSING } from './mending.js';
import { QwenArguments } from './qwen_arguments.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES, matchAt, searchFrom, without } from './spaces.js';
import { textsOf } from './texts.js';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';
const FUNCTION = '<function=';
const FUNCTION_END = '</function>';
const PARAMETER = '<parameter=';
const PARAMETER_END = '</parameter>';
const STOPS = ['<|im_end|>'];
const OPENING = /<tool_call>|<function=/g;
const NAME = new RegExp(`[^${SPACES}<>\\x00]+`, 'y');
const HEAD = `(?:${OPEN}[${SPACES}]*)?${FUNCTION}(?<name>${NAME.source})>`;
const LIKE_JSON = new RegExp(`[${SPACES}[{"0-9tfn-]`, 'y');
const PYTHON = new Map([['True', true], ['False', false], ['None', null]]); // prettier-ignore
const TRIES = 4; // closing tags within a value's JSON texts

/** @param {(name: string, key: string) => import('./texts.js').Kind | null} kindOf what a parameter may be; null: no function is known */
function qwen3coder(kindOf) {
  const syntax = syntaxOf({
    find: (reply, at) => searchFrom(OPENING, reply, at)?.index ?? -1,
    read: (reply, start, calls) => read(reply, start, calls, kindOf),
    closing: CLOSE,
    stops: STOPS,
    openings: [OPEN, FUNCTION],
    growing: growingAs(HEAD, '', { reader: (name) => new QwenArguments((key) => kindOf(name, key), readParameter) }),
    mend: (text) => mend(text, kindOf),
  });
  return formatOf('qwen3coder', syntax, { withTools });
}

/** The format that reads calls of these tools, given as OpenAI function objects, by their types. */
function withTools(tools) {
  const texts = textsOf(tools);
  return qwen3coder((name, key) => texts.get(name)?.(key) ?? null);
}

function read(reply, start, calls, kindOf) {
  let { at, name } = readTag(reply, reply.startsWith(OPEN, start) ? skipSpace(reply, start + OPEN.length) : start, FUNCTION);
  const given = new Map();
  at = skipSpace(reply, at);
  while (!reply.startsWith(FUNCTION_END, at)) {
    const tag = readTag(reply, at, PARAMETER);
    if (given.has(tag.name)) throw new BadCall(`the parameter '${tag.name.slice(0, 40)}' occurs twice`, tag.at);
    const { end, value } = readParameter(reply, tag.at, kindOf(name, tag.name));
    given.set(tag.name, value);
    at = skipSpace(reply, end);
  }
  at = close(reply, at + FUNCTION_END.length, CLOSE, [OPEN, FUNCTION, ...STOPS]);
  calls.push(checkedCall(name, Object.fromEntries(given), at));
  return at;
}

/** The call where tags after its last parameter are missing. */
function mend(text, kindOf) {
  const { body } = without(text, { close: '', stops: [...STOPS, CLOSE, FUNCTION_END] });
  const whole = `${body}\n${FUNCTION_END}\n${CLOSE}`;
  const calls = [];
  if (read(whole, 0, calls, kindOf) < whole.length) throw new BadCall('more follows the call', text.length);
  return { calls, done: [CLOSING] };
}

/** The name in a tag, and where the tag ends. */
function readTag(reply, at, opening) {
  if (!reply.startsWith(opening, at)) throw new BadCall(`expected ${opening}`, reply[at] === '{' ? past(reply, at) : at);
  const begin = at + opening.length;
  const name = matchAt(NAME, reply, begin);
  if (name === null) throw new BadCall(`a name is missing after ${opening}`, begin);
  const end = begin + name.length;
  if (reply[end] !== '>') throw new BadCall("expected '>' after the name", end);
  return { at: end + 1, name };
}

/**
 * The value whose opening tag ends at `start`, and where its closing tag ends. JSON may hold the
 * closing tag in its strings: then a later one of the same function is its end.
 */
function readParameter(reply, start, kind) {
  let close = reply.indexOf(PARAMETER_END, start);
  if (close < 0) throw new BadCall(`a parameter lacks its ${PARAMETER_END}`, reply.length);
  const end = close + PARAMETER_END.length;
  const text = reply.slice(start, close).replace(/^\n/, '').replace(/\n$/, '');
  if (kind === 'text') return { end, value: text };
  if (kind === 'optional') return { end, value: ['null', 'None'].includes(text) ? null : text };
  if (matchAt(LIKE_JSON, reply, start) !== null)
    for (let tries = 0; tries < TRIES; tries += 1) {
      const whole = wholeJson(reply.slice(start, close));
      if (whole) return { end: close + PARAMETER_END.length, value: whole.value };
      close = reply.indexOf(PARAMETER_END, close + 1);
      if (close < 0 || reply.slice(start, close).includes(FUNCTION_END)) break;
    }
  return { end, value: valueOf(text) };
}

/** A text that is JSON from end to end, as {value}; else null. */
function wholeJson(text) {
  try {
    const { end, value } = readValue(text, skipSpace(text, 0));
    return skipSpace(text, end) === text.length ? { value } : null;
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    return null;
  }
}

/** Where the white space of JSON at the end of a text begins. */
function endOfWords(text) {
  let end = text.length;
  while (end > 0 && ' \t\r\n'.includes(text[end - 1])) end -= 1;
  return end;
}

/** A value where no type is declared. */
function valueOf(text) {
  const word = text.slice(skipSpace(text, 0), endOfWords(text));
  if (PYTHON.has(word)) return PYTHON.get(word);
  const whole = wholeJson(text);
  return whole ? whole.value : text;
}

export const QWEN3CODER = qwen3coder(() => null);
