/**
 * Errors with the stable codes of lorakit's Python side (errors.py).
 *
 * `code` is meant for programs; the message is for people and may change. Names from files come
 * into messages, so what does not print is escaped and the end of a long text is cut off.
 */

const MAX_TEXT = 4000; // characters of a message, a hint or an item
const MAX_ITEMS = 1000;
const SHOWN = 20;
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

export class LorakitError extends Error {
  /**
   * @param {string} message
   * @param {{code?: string, expected?: string, found?: string, hint?: string, items?: string[]}} [facts]
   *   items: every single fault, one line each; hint: what the user can do next
   */
  constructor(message, { code = 'error', expected = '', found = '', hint = '', items = [] } = {}) {
    super(visible(message));
    this.name = 'LorakitError';
    this.code = code;
    this.expected = visible(expected);
    this.found = visible(found);
    this.hint = visible(hint);
    const more = items.length - MAX_ITEMS;
    this.items = [...items.slice(0, MAX_ITEMS), ...(more > 0 ? [`and ${more} more`] : [])].map(visible);
  }
}

/** A text that is safe to show. @param {unknown} text */
export function visible(text) {
  const whole = String(text);
  const cut = whole.length <= MAX_TEXT ? whole : `${whole.slice(0, MAX_TEXT)}...`;
  return cut.replace(UNPRINTABLE, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);
}

/** @param {string} message @param {object} [facts] */
export function invalid(message, facts) {
  return new LorakitError(message, { code: 'format_invalid', ...facts });
}

/** @param {string} message @param {object} [facts] */
export function unsupported(message, facts) {
  return new LorakitError(message, { code: 'format_unsupported', ...facts });
}

/** The first faults of many, and how many more there are. @param {string[]} faults */
export function firstOf(faults) {
  const more = faults.length - SHOWN;
  return more > 0 ? [...faults.slice(0, SHOWN), `and ${more} more`] : faults;
}
