/** An answer as its tokens come: its text, and the events of what is certain in it. */

import { readerOf } from './calls.js';

export class Answer {
  /**
   * @param {import('./chat.js').Dialogue} dialogue
   * @param {{stop: string[], format: import('./scanning.js').ToolFormat | null,
   *   use: import('./tool_choice.js').ToolUse}} asked stop: texts that end an answer before them
   */
  constructor(dialogue, { stop, format, use }) {
    this.dialogue = dialogue;
    this.stop = stop;
    this.format = format;
    this.use = use;
    this.reader = readerOf(format, { reasons: dialogue.reasons, repair: use.repair });
    this.ids = [];
    this.text = '';
    this.read = ''; // what the reader was given
    this.stopped = false; // by a stop text, or by a call that is to be the only one
  }

  /** The events that a token adds. @returns {import('./saying.js').ReplyEvent[]} */
  push(id) {
    this.ids.push(id);
    this.text = this.cut(this.dialogue.decode(this.ids));
    const certain = this.stopped ? '' : this.certain();
    // A decoder that rewrites what it gave: the whole parse will say it.
    if (!certain.startsWith(this.read)) return [];
    const events = this.reader.feed(certain.slice(this.read.length));
    this.read = certain;
    if (!this.use.parallel) this.stopped = events.some(({ type }) => type === 'callEnd');
    return events;
  }

  /** Whether a token may come next: where calls are forbidden, none that begins one. */
  allows(id) {
    if (!this.use.silent) return true;
    const { calls, malformed } = this.parse(this.dialogue.decode([...this.ids, id]));
    return !calls.length && !malformed.length;
  }

  /** The answer in its parts, and the events that are left. */
  end() {
    const parsed = this.parse(this.text);
    return { parsed, events: this.reader.end(parsed) };
  }

  parse(text) {
    return this.dialogue.parse(text, { format: this.format, repair: this.use.repair });
  }

  /** The text up to where more tokens could change it. */
  certain() {
    const half = this.text.search(/\ufffd+$/u);
    const whole = half < 0 ? this.text : this.text.slice(0, half);
    const keep = Math.max(0, ...this.stop.map((stop) => overlap(whole, stop)));
    return whole.slice(0, whole.length - keep);
  }

  cut(text) {
    const found = this.stop.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    this.stopped = found.length > 0;
    return this.stopped ? text.slice(0, Math.min(...found)) : text;
  }
}

/** Length of the longest end of the text that begins the stop text. */
function overlap(text, stop) {
  for (let count = Math.min(stop.length - 1, text.length); count > 0; count -= 1)
    if (text.endsWith(stop.slice(0, count))) return count;
  return 0;
}
