/**
 * Taking a reply apart from left to right: reasoning, words, and calls of one format.
 *
 * The rules are those of lorakit's Python parsers (chat/scanning.py), and so are the tests. A tag
 * within the string of a call that can be read is part of that string; a call that is quoted in
 * reasoning is none.
 */

import { searchFrom, strip, stripEnd, stripStart } from './spaces.js';
import { CLOSINGS, OPENING_HERE, TAGS, findTag, nextTag } from './tags.js';

/** What began like a call and is none. `position` is where it was read to: never read it again. */
export class BadCall extends Error {
  /** @param {string} reason @param {number} position @param {number} [begin] where the fault began */
  constructor(reason, position, begin) {
    super(reason);
    this.position = position;
    this.begin = begin;
  }
}

/**
 * How calls of a format are found and read. find: where the next call begins at or after a
 * position, or -1. read: appends the calls that begin there, returns their end, throws BadCall.
 * closing: what ends an unreadable call. lead: where a call without an opening begins, or -1.
 * stops: tokens that are no words at the end of a reply with calls. mend: the calls that a text
 * which cannot be read was meant to be, and what was mended; it reads all of it or throws BadCall.
 * For text that grows: openings, which `find` looks for; mayLead, whether what stands at a position
 * may be the beginning of a lead; revises, whether a call that cannot be read may turn out to be
 * text in the end; growing, how a call is told before it is whole.
 * @typedef {{name: string, arguments: object}} Call
 * @typedef {{find: (reply: string, at: number) => number,
 *   read: (reply: string, at: number, calls: Call[]) => number,
 *   closing: string, lead: (reply: string, at: number) => number, stops: string[],
 *   openings: string[], mayLead: (reply: string, at: number) => boolean, revises: boolean,
 *   growing: import('./arguments.js').Growing | null,
 *   mend: ((text: string) => {calls: Call[], done: string[]}) | null}} CallSyntax
 * @typedef {{text: string, reason: string, position: number}} Malformed
 * @typedef {{index: number, words: string}} Repair index: of the call
 * @typedef {{text: string, calls: Call[], malformed: Malformed[], reasoning: string,
 *   repairs: Repair[]}} ParsedReply
 */

const USUAL = {
  closing: '', lead: () => -1, stops: [], openings: [], mayLead: () => false, revises: false, growing: null, mend: null,
}; // prettier-ignore

/** @param {Partial<CallSyntax>} parts @returns {CallSyntax} */
export function syntaxOf(parts) {
  return { ...USUAL, ...parts };
}

/**
 * A tool format. openings: strings at which a reply turns from words into a call. stops: tokens that
 * end a reply with calls.
 * @typedef {{name: string, openings: string[], stops: string[], syntax: CallSyntax,
 *   parse: (reply: string, options?: {reasons?: boolean, repair?: boolean}) => ParsedReply}} ToolFormat
 * @param {string} name @param {CallSyntax} syntax @param {Partial<ToolFormat>} [rest]
 * @returns {ToolFormat}
 */
export function formatOf(name, syntax, rest = {}) {
  const { openings, stops } = syntax;
  return { name, openings, stops, syntax, parse: (reply, options) => takeApart(reply, syntax, options), ...rest };
}

/** No calls at all: for models without a known tool format. */
export const NO_CALLS = syntaxOf({ find: () => -1, read: (_, at) => at });

/**
 * A reply in its parts, in time linear in its length. Never throws.
 * reasons: whether the reply begins within reasoning, since the prompt ended with its opening tag.
 * repair: whether what cannot be read as a call is mended, where the format can.
 * @param {string} reply @param {CallSyntax} syntax
 * @param {{reasons?: boolean, repair?: boolean}} [options] @returns {ParsedReply}
 */
export function takeApart(reply, syntax, { reasons = false, repair = false } = {}) {
  const { lead } = syntax;
  let parts = emptyParts(0, reasons);
  let at = reasons ? beginWithin(reply, parts) : 0;
  let tag = nextTag(reply, at);
  let call = syntax.find(reply, at);
  let leading = lead(reply, at);
  while (tag || call >= 0 || leading >= 0) {
    const start = leading >= 0 ? leading : call;
    leading = -1;
    if (start >= 0 && (!tag || start < tag.start)) {
      endWords(parts, reply.slice(at, start));
      at = readCalls(reply, start, syntax, parts, repair);
    } else if (tag && tag.opens) {
      endWords(parts, reply.slice(at, tag.start));
      at = readReasoning(reply, tag.end, parts);
      leading = lead(reply, at);
    } else if (tag) {
      // A closing tag alone: all before it was reasoning.
      parts = emptyParts(tag.start, true);
      at = tag.end;
      leading = lead(reply, at);
    }
    if (tag && tag.start < at) tag = nextTag(reply, at);
    if (call >= 0 && call < at) call = syntax.find(reply, at);
  }
  parts.words.push(reply.slice(at));
  if (parts.before) parts.reasoning.unshift(reply.slice(0, parts.before).replace(TAGS, '\n'));
  return putTogether(parts, syntax.stops);
}

/**
 * @param {number} before up to where all was reasoning whose opening is not there
 * @param {boolean} led whether something else came before the first word
 */
function emptyParts(before, led) {
  return { before, led, said: false, words: [], calls: [], malformed: [], reasoning: [], repairs: [] };
}

/** Words, and then something else. */
function endWords(parts, words) {
  parts.words.push(words);
  parts.said ||= strip(words) !== '';
  parts.led ||= !parts.said;
}

/** The end of the reasoning that a reply begins in; a model may repeat the opening tag. */
function beginWithin(reply, parts) {
  OPENING_HERE.lastIndex = reply.length - stripStart(reply).length;
  return readReasoning(reply, OPENING_HERE.test(reply) ? OPENING_HERE.lastIndex : 0, parts);
}

function readReasoning(reply, start, parts) {
  const close = searchFrom(CLOSINGS, reply, start);
  parts.reasoning.push(reply.slice(start, close ? close.index : reply.length));
  return close ? CLOSINGS.lastIndex : reply.length;
}

/** The end of the calls at `start`, or of what began like one. */
function readCalls(reply, start, syntax, parts, repair) {
  try {
    return syntax.read(reply, start, parts.calls);
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    const begin = error.begin ?? start;
    const end = endOfBroken(reply, begin, Math.max(error.position, start + 1), syntax);
    const broken = { text: reply.slice(begin, end), reason: error.message, position: begin };
    if (!(repair && mended(broken.text, syntax, parts))) parts.malformed.push(broken);
    return end;
  }
}

/** Take in the calls that a text was meant to be, if that is clear; whether it is. */
function mended(text, { mend }, parts) {
  if (!mend) return false;
  try {
    const { calls, done } = mend(text);
    for (const words of done) parts.repairs.push({ index: parts.calls.length, words });
    parts.calls.push(...calls);
    return true;
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    return false;
  }
}

/** After its closing tag, else before the next call; but before any tag of reasoning in it. */
export function endOfBroken(reply, begin, after, syntax) {
  const call = syntax.find(reply, after);
  const limit = call >= 0 ? call : reply.length;
  const close = syntax.closing ? reply.slice(after, limit).indexOf(syntax.closing) : -1;
  const end = close < 0 ? limit : after + close + syntax.closing.length;
  const tag = findTag(reply.slice(begin, end), 0);
  return tag ? begin + tag.start : end;
}

function putTogether(parts, stops) {
  let text = parts.words.join('');
  if (parts.led) text = stripStart(text);
  if (parts.calls.length || parts.malformed.length) {
    text = stripEnd(text);
    for (const stop of stops) text = stripEnd(text.endsWith(stop) ? text.slice(0, -stop.length) : text);
  }
  const thoughts = parts.reasoning.map(strip).filter((thought) => thought);
  const { calls, malformed, repairs } = parts;
  return { text, calls, malformed, reasoning: thoughts.join('\n\n'), repairs };
}
