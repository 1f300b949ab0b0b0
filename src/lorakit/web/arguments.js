/**
 * The arguments of a call that is still being written, as JSON text that grows: the rules of
 * chat/arguments.py. A reader is given text and a position again and again, while the text grows,
 * and says how far it has read.
 */

const IN_STRING = /[^"\\]*(?:\\[^][^"\\]*)*/y;
const OUTSIDE = /[^"{}[\]]*/y;

/**
 * read: from a position, how far it read, the JSON text of that, and whether the arguments ended
 * there. All that it gave, joined, is JSON text of the arguments where the call turns out to be one.
 * @typedef {{read: (text: string, at: number) => {end: number, said: string, ended: boolean}}} ArgumentsReader
 */

/**
 * How a call is told while it is written. name: matched where reading of calls begins, and again
 * where the arguments of one ended; its group `name` is the function's. args: matched right behind
 * that; its end is where the reader begins, made for the function's name. quoted: whether the name is the inside of a JSON string.
 * Both patterns are sticky and look at text that grows: more text must not change what they match.
 * @typedef {{name: RegExp, args: RegExp, quoted: boolean, reader: (name: string) => ArgumentsReader}} Growing
 */

/** @param {string} name @param {string} args @param {Partial<Growing>} [rest] @returns {Growing} */
export function growingAs(name, args, rest = {}) {
  return { name: new RegExp(name, 'sy'), args: new RegExp(args, 'y'), quoted: false, reader: () => new JsonArguments(), ...rest };
}

/** Arguments that are written as a JSON object: they are given as they are. */
export class JsonArguments {
  constructor() {
    this.depth = 0;
    this.inString = false;
  }

  read(text, at) {
    const start = at;
    while (at < text.length) {
      const pattern = this.inString ? IN_STRING : OUTSIDE;
      pattern.lastIndex = at;
      at += pattern.exec(text)[0].length;
      if (at === text.length || text[at] === '\\') break; // what it escapes is not there yet
      const char = text[at];
      at += 1;
      if (char === '"') this.inString = !this.inString;
      else this.depth += char === '{' || char === '[' ? 1 : -1;
      if (this.depth <= 0 && !this.inString) return { end: at, said: text.slice(start, at), ended: true };
    }
    return { end: at, said: text.slice(start, at), ended: false };
  }
}
