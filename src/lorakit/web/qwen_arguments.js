/**
 * Arguments in Qwen 3 Coder's tags while they are written: the JSON text that they come to. The rules
 * are those of chat/formats/qwen_arguments.py. A parameter that can only be a text is given as it
 * comes, any other once its closing tag is there.
 */

import { jsonOf } from './saying.js';
import { SPACES, matchAt, stripStart } from './spaces.js';
import { held } from './tags.js';

const END = '</parameter>';
const ENDS = [END, `\n${END}`];
const NAME = `[^${SPACES}<>\\x00]+`;
const PARAMETER = new RegExp(`[ \\t\\r\\n]*<parameter=(${NAME})>(\\n?)`, 'y');
const LAST = /[ \t\r\n]*<\/function>/y;
const LIKE_OTHERS = /[ \t\r\n[{"0-9tfnTFN-]/;

/** @typedef {import('./texts.js').Kind | null} Kind */

/** See ArgumentsReader in arguments.js. */
export class QwenArguments {
  /**
   * @param {(key: string) => Kind} kindOf of the function's parameter of this name
   * @param {(text: string, at: number, kind: Kind) => {end: number, value: any}} valueOf the value whose
   *   opening tag ends at a position, and where its closing tag ends
   */
  constructor(kindOf, valueOf) {
    this.kindOf = kindOf;
    this.valueOf = valueOf;
    this.kind = null;
    this.within = false; // a parameter
    this.unsure = false; // which of several closing tags closes it
    this.first = true;
    this.looked = 0; // characters behind the position in which no closing tag begins
  }

  read(text, at) {
    let said = '';
    for (;;) {
      const next = this.next(text, at);
      const stays = next.end === at;
      at = next.end;
      said += next.said;
      if (next.ended || stays) return { end: at, said, ended: next.ended ?? false };
    }
  }

  next(text, at) {
    if (this.within) return this.kind === 'text' ? this.text(text, at) : this.value(text, at);
    const last = matchAt(LAST, text, at);
    if (last !== null) return { end: at + last.length, said: this.first ? '{}' : '}', ended: true };
    PARAMETER.lastIndex = at;
    const opening = PARAMETER.exec(text);
    const behind = PARAMETER.lastIndex;
    if (!opening || behind === text.length) return { end: at, said: '' };
    const [, key, line] = opening;
    const said = `${this.first ? '{' : ', '}${JSON.stringify(key)}: `;
    this.first = false;
    this.within = true;
    this.looked = 0;
    const kind = this.kindOf(key);
    this.kind = isText(text[behind], kind) ? 'text' : kind;
    return this.kind === 'text' ? { end: behind, said: `${said}"` } : { end: behind - line.length, said };
  }

  text(text, at) {
    const close = text.indexOf(END, at);
    if (close >= 0) {
      this.within = false;
      return { end: close + END.length, said: `${inside(text.slice(at, close).replace(/\n$/, ''))}"` };
    }
    const end = Math.max(at, text.length - held(text.slice(-END.length - 1), ENDS));
    return { end, said: inside(text.slice(at, end)) };
  }

  value(text, at) {
    const close = this.unsure ? -1 : text.indexOf(END, at + this.looked);
    if (close < 0) this.looked = Math.max(0, text.length - at - END.length + 1);
    else this.unsure = this.kind !== 'optional' && mayGoOn(text.slice(at, close));
    if (close < 0 || this.unsure) return { end: at, said: '' };
    const { end, value } = this.valueOf(text, at, this.kind);
    this.within = false;
    return { end, said: jsonOf(value) };
  }
}

/** Whether a value is a text, by what its parameter may be and its first character. */
function isText(first, kind) {
  if (kind === 'text') return true;
  return kind === 'optional' ? first !== 'n' && first !== 'N' : !LIKE_OTHERS.test(first);
}

/** Whether a text may be the beginning of JSON, one of whose strings holds the closing tag. */
function mayGoOn(text) {
  if (!/^[{["]/.test(stripStart(text))) return false;
  try {
    JSON.parse(text);
    return false;
  } catch {
    return true;
  }
}

/** A part of a string as it stands in JSON. */
function inside(text) {
  return JSON.stringify(text).slice(1, -1);
}
