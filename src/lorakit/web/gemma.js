/**
 * FunctionGemma's tool calls, and Gemma 4's, which are the same grammar with other delimiters.
 *
 *     <start_function_call>call:NAME{key:<escape>text<escape>,n:1.5,ok:true,list:[1]}<end_function_call>
 *
 * Sources: the FunctionGemma model card and template; Gemma 4's chat template. The variants that
 * are read, and the reasons of faults, are those of chat/functiongemma.py.
 */

import { growingAs } from './arguments.js';
import { readOrPass } from './broken.js';
import { GemmaArguments } from './gemma_arguments.js';
import { checkCall } from './jsoncall.js';
import { mendNamed } from './mending.js';
import { BadCall, formatOf, syntaxOf } from './scanning.js';
import { SPACES } from './spaces.js';
import { escaped } from './tags.js';

const MAX_DEPTH = 64;
const MAX_DIGITS = 4300; // Python's own limit
const SPACE = `[${SPACES}]*`;
const NAME = new RegExp(`[^${SPACES}{}\\[\\]:,<>]+`, 'y');
const KEY = new RegExp(`[^${SPACES}{}\\[\\]:,<>|"]+`, 'y');
const WORD = /[A-Za-z0-9_.+-]+/y;
const NUMBER = /^-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;
const CONSTANTS = new Map([
  ['true', true], ['false', false], ['null', null], ['None', null], ['True', true], ['False', false],
]); // prettier-ignore

/** @param {{name: string, call: string[], response: string, escape: string, turnEnd: string}} marks */
export function gemmaFormat({ name, call, response, escape, turnEnd }) {
  const stops = [response, turnEnd];
  const head = `${escaped(call[0])}${SPACE}call${SPACE}:${SPACE}(?<name>${NAME.source})(?=${SPACE}\\{)`;
  const growing = growingAs(head, `${SPACE}(?=\\{)`, { reader: () => new GemmaArguments(escape) });
  const syntax = syntaxOf({
    find: (reply, at) => reply.indexOf(call[0], at),
    closing: call[1],
    stops,
    openings: [call[0]],
    read(reply, start, calls) {
      const parser = new Parser(reply, { call, escape, stops });
      const found = parser.call(start + call[0].length);
      checkCall(found.name, found.arguments, parser.at);
      calls.push(found);
      return parser.at;
    },
    growing,
    mend: (text) => mendNamed(text, growing.name, { close: call[1], stops, escape }),
  });
  return formatOf(name, syntax);
}

/** Recursive descent over one reply; `at` is where it has read to. */
class Parser {
  constructor(text, marks) {
    this.text = text;
    this.marks = marks;
    this.at = 0;
  }

  call(at) {
    this.at = at;
    this.skip();
    this.expect('call', "expected 'call:' and a name");
    this.skip();
    this.expect(':', "expected 'call:' and a name");
    this.skip();
    const name = this.match(NAME);
    if (name === null) throw this.fault('the function has no name');
    this.skip();
    if (!this.sees('{')) throw this.fault("expected '{' after the function's name");
    const given = readOrPass(this.text, this.at, () => this.object(0), this.marks.escape);
    this.close();
    return { name, arguments: given };
  }

  /** After the arguments: the closing tag, or what may follow where generation stopped. */
  close() {
    this.skip();
    const [opening, closing] = this.marks.call;
    if (this.sees(closing)) this.at += closing.length;
    else if (this.at < this.text.length && ![opening, ...this.marks.stops].some((end) => this.sees(end)))
      throw this.fault(`expected ${closing} after the arguments`);
  }

  value(depth) {
    if (depth > MAX_DEPTH) throw this.fault(`nested deeper than ${MAX_DEPTH} levels`);
    if (this.sees(this.marks.escape)) return this.string();
    if (this.sees('{')) return this.object(depth);
    return this.sees('[') ? this.array(depth) : this.bare();
  }

  string() {
    const { escape } = this.marks;
    const begin = this.at + escape.length;
    const end = this.text.indexOf(escape, begin);
    if (end < 0) throw new BadCall(`a string lacks its closing ${escape}`, this.text.length);
    this.at = end + escape.length;
    return this.text.slice(begin, end);
  }

  bare() {
    const word = this.match(WORD);
    if (word === null) throw this.fault('expected a value');
    if (CONSTANTS.has(word)) return CONSTANTS.get(word);
    const number = NUMBER.exec(word);
    if (!number)
      throw this.fault(`'${word.slice(0, 40)}' is no number; a string stands between ${this.marks.escape}`);
    const whole = number[1] === undefined && number[2] === undefined;
    if (whole && word.replace('-', '').length > MAX_DIGITS) throw this.fault('a number with too many digits');
    const value = Number(word);
    if (!whole && !Number.isFinite(value)) throw this.fault(`the number ${word.slice(0, 40)} is too large`);
    return value;
  }

  array(depth) {
    const items = [];
    this.at += 1;
    this.skip();
    while (!this.sees(']')) {
      if (items.length) this.expect(',', "expected ',' or ']'");
      this.skip();
      items.push(this.value(depth + 1));
      this.skip();
    }
    this.at += 1;
    return items;
  }

  object(depth) {
    const found = new Map();
    this.at += 1;
    this.skip();
    while (!this.sees('}')) {
      if (found.size) this.expect(',', "expected ',' or '}'");
      this.skip();
      const key = this.key();
      if (found.has(key)) throw this.fault(`the key '${key.slice(0, 40)}' occurs twice`);
      this.skip();
      this.expect(':', "expected ':' after a key");
      this.skip();
      found.set(key, this.value(depth + 1));
      this.skip();
    }
    this.at += 1;
    return Object.fromEntries(found);
  }

  key() {
    if (this.sees(this.marks.escape)) return this.string();
    const key = this.match(KEY);
    if (key === null) throw this.fault('expected a key');
    return key;
  }

  skip() {
    while (this.at < this.text.length && ' \t\r\n'.includes(this.text[this.at])) this.at += 1;
  }

  sees(token) {
    return this.text.startsWith(token, this.at);
  }

  expect(token, reason) {
    if (!this.sees(token)) throw this.fault(reason);
    this.at += token.length;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found ? found[0] : null;
  }

  fault(reason) {
    return new BadCall(reason, this.at);
  }
}

export const FUNCTIONGEMMA = gemmaFormat({
  name: 'functiongemma',
  call: ['<start_function_call>', '<end_function_call>'],
  response: '<start_function_response>',
  escape: '<escape>',
  turnEnd: '<end_of_turn>',
});

export const GEMMA4 = gemmaFormat({
  name: 'gemma4',
  call: ['<|tool_call>', '<tool_call|>'],
  response: '<|tool_response>',
  escape: '<|"|>',
  turnEnd: '<turn|>',
});
