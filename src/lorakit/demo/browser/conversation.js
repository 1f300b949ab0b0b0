/** The chat: messages, the answer as it comes, Stop. */

import { answerHead, replyNodes, usageText } from './cards.js';
import { byId, el, errorBox } from './dom.js';

export class Conversation {
  /** @param {{choice: () => Promise<object>, options: (signal: AbortSignal) => object, engine: () => any, blocked: () => string}} page */
  constructor(site, page) {
    this.page = page;
    /** @type {object[]} */
    this.messages = [];
    /** @type {AbortController | null} */
    this.controller = null;
    suggest('suggestions', site, (text) => this.send(text));
    this.listen();
    this.showEmpty();
    this.update();
  }

  listen() {
    const input = byId('request');
    byId('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      this.send(input.value);
    });
    sendOnEnter(input, byId('composer'));
    byId('stop').addEventListener('click', () => this.controller?.abort());
    byId('clear').addEventListener('click', () => this.clear());
  }

  clear() {
    this.controller?.abort();
    this.messages = [];
    this.showEmpty();
    byId('request').focus();
  }

  showEmpty() {
    const steps = ['Ask the base something.', 'Switch an adapter on, and ask again.', 'The base stays where it is: only the adapter changes.'];
    byId('log').replaceChildren(el('div', { className: 'empty' }, el('ol', {}, ...steps.map((step) => el('li', {}, step)))));
  }

  /** What can be pressed now. */
  update() {
    const busy = this.controller !== null;
    const blocked = this.page.blocked();
    byId('send').hidden = busy;
    byId('stop').hidden = !busy;
    byId('send').disabled = !this.page.engine() || Boolean(blocked);
    byId('blocked').textContent = blocked;
    for (const button of byId('suggestions').children) button.disabled = busy || byId('send').disabled;
  }

  async send(text) {
    const said = text.trim();
    if (!said || this.controller || byId('send').disabled) return;
    const controller = (this.controller = new AbortController());
    this.update();
    byId('request').value = '';
    byId('log').querySelector('.empty')?.remove();
    const message = { role: 'user', content: said };
    this.append(el('article', { className: 'message user' }, el('p', { className: 'words' }, said)));
    this.messages.push(message);
    const article = el('article', { className: 'message model', 'aria-busy': 'true' });
    this.append(article);
    try {
      await this.answer(article, controller.signal);
    } catch (error) {
      this.fail(article, error);
    } finally {
      article.removeAttribute('aria-busy');
      this.controller = null;
      this.update();
      this.follow();
    }
  }

  async answer(article, signal) {
    const choice = await this.page.choice();
    const options = this.page.options(signal);
    const words = el('p', { className: 'words' });
    article.append(answerHead(choice), words);
    for await (const event of this.page.engine().stream(this.toSend(), choice, options)) {
      if (event.type === 'text') words.append(event.text);
      else this.finish(article, words, event.reply);
      this.follow();
    }
  }

  finish(article, words, reply) {
    words.remove();
    article.append(...replyNodes(reply), el('small', { className: 'quiet usage' }, usageText(reply)));
    // Nobody runs the calls here, and a call without its result is no conversation.
    if (reply.calls.length) this.messages.pop();
    else this.messages.push({ role: 'assistant', content: reply.text });
  }

  fail(article, error) {
    if (this.messages.at(-1)?.role === 'user') this.messages.pop(); // it was not answered
    const stopped = error.code === 'cancelled';
    article.append(stopped ? el('small', { className: 'quiet usage' }, 'stopped') : errorBox(error));
  }

  /** The conversation, or its last message alone. */
  toSend() {
    return byId('whole').checked ? this.messages : this.messages.slice(-1);
  }

  append(node) {
    byId('log').append(node);
    this.follow();
  }

  follow() {
    byId('log').scrollTop = byId('log').scrollHeight;
  }
}

/** Requests of the site to press, instead of typing. */
export function suggest(id, site, act) {
  const buttons = site.suggestions.map((text) => {
    const button = el('button', { type: 'button', className: 'suggestion' }, text);
    button.addEventListener('click', () => act(text));
    return button;
  });
  byId(id).replaceChildren(...buttons);
}

/** Enter sends, Shift and Enter is a new line; not while an input method composes. */
export function sendOnEnter(input, form) {
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
