/** The same request under two choices, side by side: one mixed batch, where the model is here. */

import { answerHead, replyNodes, usageText } from './cards.js';
import { byId, el, errorBox } from './dom.js';
import { sendOnEnter, suggest } from './conversation.js';

const SIDES = ['left', 'right'];

export class Comparison {
  /** @param {{choices: () => {id: string, label: string, make: () => Promise<object>}[], options: (signal: AbortSignal) => object, engine: () => any}} page */
  constructor(site, page) {
    this.page = page;
    /** @type {AbortController | null} */
    this.controller = null;
    suggest('compare-suggestions', site, (text) => {
      byId('compare-request').value = text;
      this.run();
    });
    byId('compare-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.run();
    });
    sendOnEnter(byId('compare-request'), byId('compare-form'));
    byId('compare-stop').addEventListener('click', () => this.controller?.abort());
    this.update();
  }

  update() {
    const choices = this.page.choices();
    SIDES.forEach((side, index) => fill(byId(side), choices, index));
    const engine = this.page.engine();
    const busy = this.controller !== null;
    byId('compare-note').textContent = engine?.remote
      ? 'Two of the server’s models answer the same request, at the same time.'
      : 'One request, two adapters: both rows run in one batch, over one copy of the base.';
    byId('compare-run').hidden = busy;
    byId('compare-run').disabled = !engine;
    byId('compare-stop').hidden = !busy;
    for (const button of byId('compare-suggestions').children) button.disabled = busy || !engine;
  }

  async run() {
    const text = byId('compare-request').value.trim();
    if (!text || this.controller || !this.page.engine()) return;
    const controller = (this.controller = new AbortController());
    byId('compare-error').replaceChildren();
    byId('compare-usage').textContent = 'running…';
    for (const side of SIDES) byId(`${side}-answer`).replaceChildren();
    this.update();
    try {
      await this.answer([{ role: 'user', content: text }], controller.signal);
    } catch (error) {
      byId('compare-usage').textContent = error.code === 'cancelled' ? 'stopped' : '';
      if (error.code !== 'cancelled') byId('compare-error').replaceChildren(errorBox(error));
    } finally {
      this.controller = null;
      this.update();
    }
  }

  async answer(messages, signal) {
    const all = this.page.choices();
    const choices = await Promise.all(SIDES.map((side) => all.find(({ id }) => id === byId(side).value).make()));
    const { replies, seconds, together } = await this.page.engine().both(messages, choices, this.page.options(signal));
    replies.forEach((reply, index) => show(SIDES[index], choices[index], reply, together));
    const tokens = replies.reduce((sum, { usage }) => sum + (usage.completionTokens ?? 0), 0);
    const how = together ? 'one mixed batch' : 'two requests';
    byId('compare-usage').textContent = `${how}: ${tokens} tokens in ${seconds.toFixed(2)} s, ${(tokens / seconds).toFixed(0)} tokens/s`;
  }
}

function show(side, choice, reply, together) {
  const usage = together ? `${reply.usage.completionTokens} tokens` : usageText(reply);
  byId(`${side}-answer`).replaceChildren(answerHead(choice), ...replyNodes(reply), el('small', { className: 'quiet usage' }, usage));
}

/** Options of a select; what was chosen stays, else the two sides begin with different ones. */
function fill(select, choices, index) {
  const before = select.value;
  select.replaceChildren(...choices.map(({ id, label }) => new Option(label, id)));
  const kept = choices.some(({ id }) => id === before);
  select.value = kept ? before : (choices[index] ?? choices[0])?.id;
}
