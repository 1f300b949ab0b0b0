/**
 * ReplyReader: a reply read piece by piece, each part given away as soon as it is certain. The rules
 * are those of chat/reading.py.
 *
 * It goes the way of scanning.js, which takes a whole reply apart, and stops where more text could
 * make a difference: at what may be the beginning of a marker, and in a call that is not whole yet.
 * What is left at the end comes from the whole parse, so that the events of a reply, joined, are that
 * parse, however the reply was cut into pieces.
 */

import { Saying } from './saying.js';
import { BadCall, endOfBroken } from './scanning.js';
import { searchFrom, stripStart } from './spaces.js';
import { CLOSINGS, OPENING_HERE, UNFINISHED, UNFINISHED_CLOSE, UNFINISHED_OPEN_HERE, findTag, held, mayBeNamed } from './tags.js';
import { Telling } from './telling.js';

const END = '\0'; // what no format has: a call that is read before it needs no more text
const MARGIN = 32; // characters; more than any marker or literal that the end of a text may cut
const WORK = 8; // times its length that a call may be read again while it grows
const FREE = 4096; // characters that may be read again in any case

/** Makes events of one reply's pieces, in time linear in its length. */
export class ReplyReader {
  /**
   * reasons: whether the reply begins within reasoning, since the prompt opened it. repair: whether
   * the whole parse mends calls: from the first one that cannot be read, it says all.
   * @param {import('./scanning.js').CallSyntax} syntax
   * @param {{reasons?: boolean, repair?: boolean}} [options]
   */
  constructor(syntax, { reasons = false, repair = false } = {}) {
    this.syntax = syntax;
    this.mends = repair && syntax.mend !== null;
    this.text = ''; // what is not read yet, and one character before it
    this.at = 0; // where the unread part begins in it
    this.dropped = 0; // characters of the reply before it
    this.step = reasons ? this.begin : this.lead;
    this.said = new Saying(syntax.stops, reasons);
    this.growth = new Growth();
    this.telling = new Telling(null, this.said);
    this.callsBefore = 0;
    this.broken = [0, 0]; // where tags and where the end of an unreadable call are looked for
  }

  /** What is certain with this piece. @returns {import('./saying.js').ReplyEvent[]} */
  feed(piece) {
    this.text += piece;
    while (this.step()) /* on */;
    this.drop(this.at - 1);
    return this.said.taken();
  }

  /** What is left, once the whole reply is known. @returns {import('./saying.js').ReplyEvent[]} */
  end(parsed) {
    return this.said.rest(parsed);
  }

  // The steps. Each reads on, chooses the next one, and says whether that may go on.

  /** The beginning of a reply within reasoning, where its opening may be repeated. */
  begin() {
    const start = this.text.length - stripStart(this.text).length;
    if (start === this.text.length || matches(UNFINISHED_OPEN_HERE, this.text, start)) return false;
    return this.go(this.think, matches(OPENING_HERE, this.text, start) ? OPENING_HERE.lastIndex : 0);
  }

  /** Where a call may begin without an opening. */
  lead() {
    const start = this.syntax.lead(this.text, this.at);
    if (start >= 0) return this.beginCall(start);
    return !this.syntax.mayLead(this.text, this.at) && this.go(this.words, this.at);
  }

  /** Words, up to a tag of reasoning or a call. */
  words() {
    const { tag, sure } = this.nextTag();
    const call = this.syntax.find(this.text, this.at);
    const end = tag ? tag.start : sure;
    if (call >= 0 && call < end) return this.beginCall(call);
    this.say(end);
    if (!tag) return false;
    if (tag.opens) {
      this.said.endWords();
      return this.go(this.think, tag.end);
    }
    this.said.withdraw(this.dropped + tag.start > 0);
    return this.go(this.lead, tag.end);
  }

  /** Reasoning, up to the tag that closes it. */
  think() {
    const close = searchFrom(CLOSINGS, this.text, this.at);
    const after = CLOSINGS.lastIndex;
    const end = close ? close.index : startOf(UNFINISHED_CLOSE, this.text, this.at);
    this.said.think(this.text.slice(this.at, end));
    this.at = end;
    if (!close) return false;
    this.said.endThought();
    return this.go(this.lead, after);
  }

  /** A call that grows, until it is whole or can be none. */
  read() {
    const { text, at, syntax, said } = this;
    this.telling.tell(text, at);
    if (!this.growth.isWorthReading(text, at, syntax)) return false;
    const calls = said.calls.slice(0, this.callsBefore);
    let end;
    try {
      end = syntax.read(text + END, at, calls);
    } catch (error) {
      if (!(error instanceof BadCall)) throw error;
      this.endCalls(calls);
      return error.position <= text.length - MARGIN && this.beginBroken(error);
    }
    if (end > text.length) return false;
    this.endCalls(calls);
    said.dropCall();
    return this.go(this.words, end);
  }

  /** What began like a call and is none, to its end. */
  skip() {
    const { text, syntax } = this;
    const [tags, after] = this.broken;
    const end = endOfBroken(text, tags, after, syntax);
    const closed = syntax.closing && text.indexOf(syntax.closing, after) >= 0;
    if (end < text.length || closed || syntax.find(text, after) >= 0) return this.go(this.words, end);
    const longest = Math.max(...[syntax.closing, ...syntax.openings].map((mark) => mark.length));
    this.broken = [startOf(UNFINISHED, text, tags), Math.max(after, text.length - longest + 1)];
    this.at = Math.min(...this.broken);
    return false;
  }

  /** What only the whole parse can say. */
  wait() {
    this.at = this.text.length;
    return false;
  }

  go(step, at) {
    this.step = step;
    this.at = at;
    return true;
  }

  beginCall(start) {
    this.say(start);
    this.said.endWords();
    this.growth = new Growth();
    this.callsBefore = this.said.calls.length;
    this.telling = new Telling(this.syntax.growing, this.said);
    return this.go(this.read, start);
  }

  /** All calls so far. */
  endCalls(calls) {
    for (const call of calls.slice(this.said.calls.length)) {
      this.telling.tell(this.text, this.at);
      this.said.endCall(call);
      this.telling.next();
    }
  }

  beginBroken(error) {
    if (this.mends) return this.go(this.wait, this.at);
    this.said.dropCall();
    if (this.syntax.revises && !this.said.calls.length) this.said.mute();
    const begin = error.begin ?? this.at;
    this.broken = [begin, Math.max(error.position, this.at + 1)];
    return this.go(this.skip, begin);
  }

  say(end) {
    this.said.say(this.text.slice(this.at, end));
    this.at = end;
  }

  /** The next tag that is not merely named, and how far the words are certain without it. */
  nextTag() {
    const { text, at } = this;
    const opening = text.length - Math.min(held(text, this.syntax.openings), text.length - at);
    const sure = Math.min(opening, startOf(UNFINISHED, text, at));
    for (let tag = findTag(text, at); tag && tag.start < sure; tag = findTag(text, tag.end)) {
      if (!mayBeNamed(text, tag)) return { tag, sure };
      if (tag.end === text.length) return { tag: null, sure: tag.start };
    }
    return { tag: null, sure };
  }

  drop(count) {
    if (count <= 0) return;
    this.text = this.text.slice(count);
    this.at -= count;
    this.dropped += count;
    this.broken = this.broken.map((place) => place - count);
  }
}

/** When a growing call is read again: often enough to be prompt, and in linear time. */
class Growth {
  constructor() {
    this.size = 0; // when it was read last
    this.spent = 0; // in all
    this.looked = 0; // how far an end was looked for
    this.mayEnd = false;
  }

  isWorthReading(text, start, { closing, openings, stops }) {
    const size = text.length - start;
    const ends = closing ? [closing, ...openings, ...stops] : ['}'];
    const longest = Math.max(...ends.map((end) => end.length));
    const added = text.slice(start + Math.max(0, this.looked + 1 - longest));
    this.looked = size;
    this.mayEnd ||= ends.some((end) => added.includes(end));
    const worth = this.mayEnd || size >= 2 * this.size;
    if (!worth || this.spent + size > WORK * size + FREE) return false;
    this.size = size;
    this.spent += size;
    this.mayEnd = false;
    return true;
  }
}

/** Where a pattern matches, or the end of the text. */
function startOf(pattern, text, at) {
  return searchFrom(pattern, text, at)?.index ?? text.length;
}

/** Whether a sticky pattern matches at a position; it then says where it ends. */
function matches(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.test(text);
}
