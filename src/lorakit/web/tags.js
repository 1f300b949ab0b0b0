/**
 * Tags between which a model reasons, such as <think> and </think>, and what may still become one
 * once more text comes: the rules of chat/tags.py and chat/unfinished.py.
 *
 * A tag between two equal quotation marks or backticks is only named, and is none.
 */

import { SPACES, searchFrom } from './spaces.js';

const SPACE = `[${SPACES}]`;
const GAP = `${SPACE}{0,8}`;
const NAME = `(?:(?:seed|mm)${SPACE}*:${SPACE}*)?(?:think(?:ing)?|thoughts?|scratch_?pad)`;
const OPENING =
  `<${GAP}${NAME}${GAP}>|\\[${GAP}think${GAP}\\]|◁think▷` +
  `|<\\|start_thinking\\|>|<\\|begin_of_thought\\|>|<\\|channel>${GAP}(?:thought)?`;
const CLOSING =
  `<${GAP}\\/${GAP}${NAME}${GAP}>|\\[${GAP}\\/${GAP}think${GAP}\\]|◁\\/think▷` +
  '|<\\|end_thinking\\|>|<\\|end_of_thought\\|>|<channel\\|>';
const ENDS_OPEN = new RegExp(`(?:${OPENING})${SPACE}*$`, 'iu');
const QUOTES = '`"\'';

/** Group 1: it opens; group 2: it closes. */
export const TAGS = new RegExp(`(${OPENING})|(${CLOSING})`, 'giu');
export const CLOSINGS = new RegExp(CLOSING, 'giu');
export const OPENING_HERE = new RegExp(OPENING, 'yiu');

/** Literal texts, and patterns of white space (which begin with a bracket), one atom each. */
export function sequence(...parts) {
  return parts.flatMap((part) => (part.startsWith(SPACE) ? [part] : Array.from(part, escaped)));
}

/** The pattern of the beginnings of sequences that are not the whole yet, of one character at least. */
export function unfinished(sequences) {
  return sequences.map((atoms) => atoms.slice(0, -1).reduceRight((rest, atom) => atom + (rest && `(?:${rest})?`), '')).join('|');
}

/** How many characters at the end of a text may be the beginning of a marker. */
export function held(text, markers) {
  let longest = 0;
  for (const marker of markers)
    for (let size = Math.min(marker.length - 1, text.length); size > longest; size -= 1)
      if (text.endsWith(marker.slice(0, size))) longest = size;
  return longest;
}

const NAMES = ['think', 'thinking', 'thought', 'thoughts', 'scratchpad', 'scratch_pad'];
const PREFIXES = [[], ...['seed', 'mm'].map((prefix) => [prefix, `${SPACE}*`, ':', `${SPACE}*`])];
const PAIRS = PREFIXES.flatMap((prefix) => NAMES.map((name) => [...prefix, name]));
const OPENINGS = [
  ...PAIRS.map((pair) => sequence('<', GAP, ...pair, GAP, '>')),
  sequence('[', GAP, 'think', GAP, ']'),
  ...['◁think▷', '<|start_thinking|>', '<|begin_of_thought|>'].map((mark) => sequence(mark)),
  sequence('<|channel>', GAP, 'thought'),
];
const CLOSES = [
  ...PAIRS.map((pair) => sequence('<', GAP, '/', GAP, ...pair, GAP, '>')),
  sequence('[', GAP, '/', GAP, 'think', GAP, ']'),
  ...['◁/think▷', '<|end_thinking|>', '<|end_of_thought|>', '<channel|>'].map((mark) => sequence(mark)),
];
const atEnd = (sequences, flags) => new RegExp(`(?:${unfinished(sequences)})$`, flags);
export const UNFINISHED_OPEN_HERE = atEnd(OPENINGS, 'yiu');
export const UNFINISHED_CLOSE = atEnd(CLOSES, 'giu');
export const UNFINISHED = atEnd([...OPENINGS, ...CLOSES], 'giu');

/** Whether a prompt ends with a tag that opens reasoning. @param {string} prompt */
export function opensReasoning(prompt) {
  return ENDS_OPEN.test(prompt.slice(-100));
}

/** @typedef {{start: number, end: number, opens: boolean}} Tag */

/** The next tag at or after a position, named or not. @returns {Tag | null} */
export function findTag(text, at) {
  const found = searchFrom(TAGS, text, at);
  return found && { start: found.index, end: TAGS.lastIndex, opens: found[1] !== undefined };
}

/** The next tag that is not merely named, as in `<think>`. @returns {Tag | null} */
export function nextTag(text, at) {
  for (let tag = findTag(text, at); tag; tag = findTag(text, tag.end))
    if (tag.end === text.length || !mayBeNamed(text, tag)) return tag;
  return null;
}

/** Whether equal quotation marks stand around a tag, or one before it and the end after it. */
export function mayBeNamed(text, { start, end }) {
  const before = text[start - 1];
  return before !== undefined && QUOTES.includes(before) && (end === text.length || text[end] === before);
}

/** A text as it stands in a pattern. */
export function escaped(text) {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}
