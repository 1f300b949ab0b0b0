/**
 * Telling: name and arguments of a call while it is written, before it can be read as a whole. The
 * rules are those of chat/telling.py; whether the text is a call in the end is found out by reading.
 */

const HEAD = 512; // characters within which a name, and then its arguments, have to begin

export class Telling {
  /** @param {import('./arguments.js').Growing | null} growing @param {import('./saying.js').Saying} said */
  constructor(growing, said) {
    this.growing = growing;
    this.said = said;
    /** @type {'name' | 'arguments' | 'more' | 'end' | ''} '' where it does not look like a call */
    this.awaits = growing ? 'name' : '';
    this.offset = 0; // from where the reading began to where the text goes on
    this.name = '';
    this.reader = null;
  }

  /** Tell what more of the text says of the call. start: where the reading began in it. */
  tell(text, start) {
    if (this.awaits === 'name') this.tellName(text, start);
    if (this.awaits === 'arguments') this.findArguments(text, start);
    if (this.awaits === 'more') this.tellArguments(text, start);
  }

  /** Another call may follow the one that is whole. */
  next() {
    this.awaits = this.awaits === 'end' ? 'name' : '';
  }

  tellName(text, start) {
    const { found, full } = this.match(this.growing.name, text, start);
    const name = found && (this.growing.quoted ? unquoted(found.groups.name) : found.groups.name);
    if (name) {
      this.name = name;
      this.said.beginCall(name);
      this.awaits = 'arguments';
      this.offset += found[0].length;
    } else if (found || full) this.awaits = '';
  }

  findArguments(text, start) {
    const { found, full } = this.match(this.growing.args, text, start);
    if (found) {
      this.reader = this.growing.reader(this.name);
      this.awaits = 'more';
      this.offset += found[0].length;
    } else if (full) this.awaits = '';
  }

  tellArguments(text, start) {
    const { end, said, ended } = this.reader.read(text, start + this.offset);
    this.said.addArguments(said);
    this.awaits = ended ? 'end' : 'more';
    this.offset = end - start;
  }

  match(pattern, text, start) {
    const at = start + this.offset;
    pattern.lastIndex = 0;
    return { found: pattern.exec(text.slice(at, at + HEAD)), full: text.length - at >= HEAD };
  }
}

/** The text of a JSON string of which this is the inside; '' where it is none. */
function unquoted(inside) {
  try {
    return JSON.parse(`"${inside}"`);
  } catch {
    return '';
  }
}
