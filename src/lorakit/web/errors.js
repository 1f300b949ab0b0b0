/** Errors with the stable codes of lorakit's Python side (errors.py). */

export class LorakitError extends Error {
  /**
   * @param {string} message
   * @param {{code?: string, expected?: string, found?: string, hint?: string, items?: string[]}} [facts]
   */
  constructor(message, { code = 'error', expected = '', found = '', hint = '', items = [] } = {}) {
    super(message);
    this.name = 'LorakitError';
    this.code = code;
    this.expected = expected;
    this.found = found;
    this.hint = hint;
    this.items = items;
  }
}
