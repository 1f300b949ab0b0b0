/**
 * Saying: the events of a reply that is read from left to right, none of which the whole parse
 * would take back. The rules are those of chat/saying.py.
 *
 * White space and stop tokens at the end of words wait for what follows; space before the first word
 * waits for whether a call or reasoning comes first.
 */

import { strip, stripEnd, stripStart } from './spaces.js';
import { held } from './tags.js';

/**
 * Each call is a callStart, at least one callArguments and a callEnd, or a callWithdrawn in place of
 * the rest. withdrawn: text, reasoning and calls so far do not count; what follows is all of the reply.
 * @typedef {{type: 'text', text: string} | {type: 'reasoning', text: string}
 *   | {type: 'callStart', index: number, name: string}
 *   | {type: 'callArguments', index: number, text: string}
 *   | {type: 'callEnd', index: number, call: import('./scanning.js').Call}
 *   | {type: 'callWithdrawn', index: number} | {type: 'withdrawn'}} ReplyEvent
 */

/** What was said so far, and what waits. */
export class Saying {
  /** @param {string[]} stops @param {boolean} led whether something else came before the first word */
  constructor(stops, led) {
    this.stops = stops;
    /** @type {ReplyEvent[]} */
    this.events = [];
    this.late = false;
    this.startAnew(led);
  }

  startAnew(led) {
    this.calls = [];
    this.begun = null; // a call that has begun and not ended: {name, args}
    this.led = led;
    this.spoke = false;
    this.muted = false;
    this.text = ''; // given away
    this.words = ''; // waiting
    this.reasoning = '';
    this.thought = '';
    this.inThought = false;
  }

  /** Words that the reply holds for certain. */
  say(words) {
    if (!this.spoke && this.led) words = stripStart(words);
    this.words += words;
    if (!strip(words)) return; // counts only if a word follows
    this.spoke = true;
    if (this.muted) return;
    const end = this.endOfCertain(this.words);
    const given = this.words.slice(0, end);
    this.words = this.words.slice(end);
    if (!given) return;
    this.text += given;
    this.events.push({ type: 'text', text: given });
  }

  /** A part of another kind follows. */
  endWords() {
    if (this.spoke) return;
    this.led = true;
    this.words = '';
  }

  /** More of a block of reasoning. */
  think(words) {
    if (!this.inThought) words = stripStart(words);
    this.thought += words;
    if (!strip(words)) return;
    const gap = this.inThought || !this.reasoning ? '' : '\n\n';
    const whole = stripEnd(this.thought);
    this.inThought = true;
    this.thought = this.thought.slice(whole.length);
    if (this.late) return;
    this.reasoning += gap + whole;
    this.events.push({ type: 'reasoning', text: gap + whole });
  }

  /** The end of a block of reasoning. */
  endThought() {
    this.inThought = false;
    this.thought = '';
  }

  /** A call, of which no more is known than its name. */
  beginCall(name) {
    this.begun = { name, args: '' };
    this.events.push({ type: 'callStart', index: this.calls.length, name });
  }

  /** More of the arguments of the call that has begun, as JSON text. */
  addArguments(text) {
    if (!text || !this.begun) return;
    this.begun.args += text;
    this.events.push({ type: 'callArguments', index: this.calls.length, text });
  }

  /** The next call, whole. */
  endCall(call) {
    this.sayEnd(this.calls.length, call);
    this.calls.push(call);
  }

  /** The call that has begun is none. */
  dropCall() {
    if (this.begun) this.events.push({ type: 'callWithdrawn', index: this.calls.length });
    this.begun = null;
  }

  /** Hold all words from now on: only the whole parse can say where they stand. */
  mute() {
    this.muted = true;
  }

  /** All so far was reasoning. late: it is said at the end, once it is known how much. */
  withdraw(late) {
    if (this.text || this.reasoning || this.calls.length || this.begun) this.events.push({ type: 'withdrawn' });
    this.late = late;
    this.startAnew(true);
  }

  /** The events since the last time. */
  taken() {
    return this.events.splice(0);
  }

  /** The events that make what was said the whole parse. */
  rest(parsed) {
    let { text, reasoning } = this;
    let known = this.calls.length;
    const holds = parsed.text.startsWith(text) && parsed.reasoning.startsWith(reasoning) && same(parsed.calls.slice(0, known), this.calls);
    if (!holds) {
      this.events.push({ type: 'withdrawn' });
      text = reasoning = '';
      known = 0;
      this.begun = null;
    }
    if (this.begun && known < parsed.calls.length) {
      this.sayEnd(known, parsed.calls[known]);
      known += 1;
    }
    this.dropCall();
    const thought = parsed.reasoning.slice(reasoning.length);
    const words = parsed.text.slice(text.length);
    if (thought) this.events.push({ type: 'reasoning', text: thought });
    if (words) this.events.push({ type: 'text', text: words });
    parsed.calls.slice(known).forEach((call, i) => this.sayEnd(known + i, call));
    return this.taken();
  }

  /** The end of a call, with what was not said of it yet; all of it, where that was wrong. */
  sayEnd(index, call) {
    const json = jsonOf(call.arguments);
    let said = this.begun?.args ?? '';
    const whole = isJsonOf(said, call.arguments);
    if (this.begun && (this.begun.name !== call.name || !(whole || json.startsWith(said)))) {
      this.events.push({ type: 'callWithdrawn', index });
      this.begun = null;
      said = '';
    }
    if (!this.begun) this.events.push({ type: 'callStart', index, name: call.name });
    if (!said || !whole) this.events.push({ type: 'callArguments', index, text: json.slice(said.length) });
    this.events.push({ type: 'callEnd', index, call });
    this.begun = null;
  }

  /** Where the white space, stop tokens and what may become one begin at the end of a text. */
  endOfCertain(text) {
    let end = text.length - held(text, this.stops);
    for (;;) {
      const left = stripEnd(text.slice(0, end));
      const stop = this.stops.find((mark) => left.endsWith(mark));
      if (stop === undefined) return left.length;
      end = left.length - stop.length;
    }
  }
}

/** JSON with spaces where Python's json.dumps has them. */
export function jsonOf(value) {
  if (Array.isArray(value)) return `[${value.map(jsonOf).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${jsonOf(item)}`).join(', ')}}`;
}

function isJsonOf(text, value) {
  try {
    return same(JSON.parse(text), value);
  } catch {
    return false;
  }
}

/** Whether two JSON values are equal; the order of keys does not count. */
function same(x, y) {
  if (typeof x !== 'object' || typeof y !== 'object' || x === null || y === null) return x === y;
  if (Array.isArray(x) !== Array.isArray(y)) return false;
  const [names, others] = [Object.keys(x), Object.keys(y)];
  return names.length === others.length && names.every((name) => Object.hasOwn(y, name) && same(x[name], y[name]));
}
