/**
 * Taking a reply apart from left to right: reasoning, words, and calls of one format.
 *
 * The rules are those of lorakit's Python parsers (chat/scanning.py), and so are the tests. A tag
 * within the string of a call that can be read is part of that string; a call that is quoted in
 * reasoning is none.
 */

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
 * lead: where a call without an opening begins, or -1. closing: what ends an unreadable call.
 * @typedef {{name: string, arguments: object}} Call
 * @typedef {{find: (reply: string, at: number) => number,
 *   read: (reply: string, at: number, calls: Call[]) => number,
 *   closing?: string, lead?: (reply: string, at: number) => number}} CallSyntax
 * @typedef {{text: string, reason: string, position: number}} Malformed
 * @typedef {{text: string, calls: Call[], malformed: Malformed[], reasoning: string}} ParsedReply
 */

// What Python's str.strip takes for white space; JavaScript's trim differs.
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
export const LEADING = new RegExp(`^[${SPACE}]+`);
const IS_SPACE = new RegExp(`[${SPACE}]`);
export const SPACES = SPACE;

/** @param {string} text */
export function stripStart(text) {
  return text.replace(LEADING, '');
}

/** A loop, since a pattern for the end would be tried at every run of spaces. @param {string} text */
export function stripEnd(text) {
  let end = text.length;
  while (end > 0 && IS_SPACE.test(text[end - 1])) end -= 1;
  return text.slice(0, end);
}

/** @param {string} text */
export function strip(text) {
  return stripStart(stripEnd(text));
}

const NAME = '(?:(?:seed|mm)\\s*:\\s*)?(?:think(?:ing)?|thoughts?|scratch_?pad)'.replaceAll('\\s', `[${SPACE}]`);
const GAP = `[${SPACE}]{0,8}`;
const OPENING =
  `<${GAP}${NAME}${GAP}>|\\[${GAP}think${GAP}\\]|◁think▷` +
  `|<\\|start_thinking\\|>|<\\|begin_of_thought\\|>|<\\|channel>${GAP}(?:thought)?`;
const CLOSING =
  `<${GAP}\\/${GAP}${NAME}${GAP}>|\\[${GAP}\\/${GAP}think${GAP}\\]|◁\\/think▷` +
  '|<\\|end_thinking\\|>|<\\|end_of_thought\\|>|<channel\\|>';
const ENDS_OPEN = new RegExp(`(?:${OPENING})[${SPACE}]*$`, 'iu');
const QUOTES = '`"\'';

const TAGS = new RegExp(`(${OPENING})|(${CLOSING})`, 'giu');
const CLOSINGS = new RegExp(CLOSING, 'giu');
const OPENING_HERE = new RegExp(OPENING, 'yiu');

/** No calls at all: for models without a known tool format. @type {CallSyntax} */
export const NO_CALLS = { find: () => -1, read: (_, at) => at };

/**
 * A reply in its parts, in time linear in its length. Never throws.
 * stops: tokens that are no words at the end of a reply with calls. reasons: whether the reply
 * begins within reasoning, since the prompt ended with its opening tag.
 * @param {string} reply @param {CallSyntax} syntax
 * @param {{stops?: string[], reasons?: boolean}} [options] @returns {ParsedReply}
 */
export function takeApart(reply, syntax, { stops = [], reasons = false } = {}) {
  const lead = syntax.lead ?? (() => -1);
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
      at = readCalls(reply, start, syntax, parts);
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
  return putTogether(parts, stops);
}

/** Whether a prompt ends with a tag that opens reasoning. @param {string} prompt */
export function opensReasoning(prompt) {
  return ENDS_OPEN.test(prompt.slice(-100));
}

/**
 * @param {number} before up to where all was reasoning whose opening is not there
 * @param {boolean} led whether something else came before the first word
 */
function emptyParts(before, led) {
  return { before, led, said: false, words: [], calls: [], malformed: [], reasoning: [] };
}

/** Words, and then something else. */
function endWords(parts, words) {
  parts.words.push(words);
  parts.said ||= strip(words) !== '';
  parts.led ||= !parts.said;
}

/** The next tag that is not merely named, as in `<think>`. */
function nextTag(reply, at) {
  TAGS.lastIndex = at;
  for (let found = TAGS.exec(reply); found; found = TAGS.exec(reply)) {
    const end = found.index + found[0].length;
    const before = reply[found.index - 1];
    const quoted = before !== undefined && before === reply[end] && QUOTES.includes(before);
    if (!quoted) return { start: found.index, end, opens: found[1] !== undefined };
  }
  return null;
}

/** The end of the reasoning that a reply begins in; a model may repeat the opening tag. */
function beginWithin(reply, parts) {
  OPENING_HERE.lastIndex = reply.length - stripStart(reply).length;
  return readReasoning(reply, OPENING_HERE.test(reply) ? OPENING_HERE.lastIndex : 0, parts);
}

function readReasoning(reply, start, parts) {
  CLOSINGS.lastIndex = start;
  const close = CLOSINGS.exec(reply);
  parts.reasoning.push(reply.slice(start, close ? close.index : reply.length));
  return close ? close.index + close[0].length : reply.length;
}

/** The end of the calls at `start`, or of what began like one. */
function readCalls(reply, start, syntax, parts) {
  try {
    return syntax.read(reply, start, parts.calls);
  } catch (error) {
    if (!(error instanceof BadCall)) throw error;
    const begin = error.begin ?? start;
    const end = endOfBroken(reply, begin, Math.max(error.position, start + 1), syntax);
    parts.malformed.push({ text: reply.slice(begin, end), reason: error.message, position: begin });
    return end;
  }
}

/** After its closing tag, else before the next call; but before any tag of reasoning in it. */
function endOfBroken(reply, begin, after, syntax) {
  const call = syntax.find(reply, after);
  const limit = call >= 0 ? call : reply.length;
  const close = syntax.closing ? reply.slice(after, limit).indexOf(syntax.closing) : -1;
  const end = close < 0 ? limit : after + close + syntax.closing.length;
  const tag = reply.slice(begin, end).search(TAGS);
  return tag < 0 ? end : begin + tag;
}

function putTogether(parts, stops) {
  let text = parts.words.join('');
  if (parts.led) text = stripStart(text);
  if (parts.calls.length || parts.malformed.length) {
    text = stripEnd(text);
    for (const stop of stops) text = stripEnd(text.endsWith(stop) ? text.slice(0, -stop.length) : text);
  }
  const thoughts = parts.reasoning.map(strip).filter((thought) => thought);
  const { calls, malformed } = parts;
  return { text, calls, malformed, reasoning: thoughts.join('\n\n') };
}
