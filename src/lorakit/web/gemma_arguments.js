/**
 * Arguments in Gemma's notation while they are written: the JSON text that they come to. The rules
 * are those of chat/formats/gemma_arguments.py. A word is given once it has ended, a string as it comes.
 */

import { SPACES } from './spaces.js';
import { held } from './tags.js';

const SPACE = /[ \t\r\n]*/y;
const BARE = new RegExp(`[^${SPACES}{}\\[\\]:,<>|"]{1,256}`, 'y');
const NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/;
const CONSTANTS = { true: 'true', false: 'false', null: 'null', None: 'null', True: 'true', False: 'false' };
const PUNCTUATION = { ',': ', ', ':': ': ' };

/** See ArgumentsReader in arguments.js. It stays where something begins that is none of the notation. */
export class GemmaArguments {
  /** @param {string} escape what stands before and behind a string */
  constructor(escape) {
    this.escape = escape;
    this.open = []; // brackets
    this.inString = false;
    this.inKey = false;
  }

  read(text, at) {
    let said = '';
    for (;;) {
      const next = this.next(text, at);
      at = next.end;
      said += next.said;
      if (!next.said || !this.open.length) return { end: at, said, ended: next.said !== '' };
    }
  }

  /** The JSON text of the next part, and where that ends; '' where there is none yet. */
  next(text, at) {
    if (this.inString) return this.string(text, at);
    SPACE.lastIndex = at;
    at += SPACE.exec(text)[0].length;
    const { escape } = this;
    if (text.startsWith(escape, at)) {
      this.inString = true;
      return { end: at + escape.length, said: '"' };
    }
    const char = text[at];
    if (char === undefined || escape.startsWith(text.slice(at, at + escape.length))) return { end: at, said: '' };
    if ('{}[]'.includes(char)) {
      this.bracket(char);
      return { end: at + 1, said: char };
    }
    if (!Object.hasOwn(PUNCTUATION, char)) return this.word(text, at);
    this.inKey = char === ',' && this.open.at(-1) === '{';
    return { end: at + 1, said: PUNCTUATION[char] };
  }

  bracket(char) {
    if ('{['.includes(char)) this.open.push(char);
    else this.open.pop();
    this.inKey = char === '{';
  }

  string(text, at) {
    const { escape } = this;
    const close = text.indexOf(escape, at);
    if (close >= 0) {
      this.inString = false;
      return { end: close + escape.length, said: `${inside(text.slice(at, close))}"` };
    }
    const end = Math.max(at, text.length - held(text.slice(-escape.length), [escape]));
    return { end, said: inside(text.slice(at, end)) };
  }

  word(text, at) {
    BARE.lastIndex = at;
    const word = BARE.exec(text)?.[0];
    if (!word || at + word.length === text.length) return { end: at, said: '' };
    const said = this.inKey ? JSON.stringify(word) : valueOf(word);
    return { end: said ? at + word.length : at, said };
  }
}

/** A part of a string as it stands in JSON. */
function inside(text) {
  return JSON.stringify(text).slice(1, -1);
}

/** A bare value as JSON; '' for what is none. */
function valueOf(word) {
  if (Object.hasOwn(CONSTANTS, word)) return CONSTANTS[word];
  return NUMBER.test(word) ? JSON.stringify(Number(word)) : '';
}
