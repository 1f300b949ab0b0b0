/**
 * The example app: a chat over a model in this page, with adapters that swap while it runs.
 *
 * Everything is done by lib/lorakit.js, which computes in a worker; here are the panels and what
 * holds them together.
 */

import { byId, errorBox, errorLine } from './dom.js';
import { Comparison } from './compare.js';
import { Conversation } from './conversation.js';
import { OpeningPanel } from './opening.js';
import { Rack } from './rack.js';
import { findRuntimes } from './runtimes.js';
import { readSite } from './state.js';

const RELOADED = 'lorakit-demo-reloaded';

class App {
  constructor(site, runtimes) {
    this.engine = null;
    this.label = '';
    this.rack = new Rack(site, { onAdapters: () => this.update() });
    const shared = { engine: () => this.engine, options: (signal) => requestOptions(signal) };
    this.conversation = new Conversation(site, { ...shared, choice: () => this.current(), blocked: () => this.rack.blocked() });
    this.comparison = new Comparison(site, { ...shared, choices: () => this.choices() });
    byId('tools').value = site.tools?.length ? JSON.stringify(site.tools, null, 2) : '';
    byId('tools').addEventListener('change', () => checkTools());
    byId('remote-name').addEventListener('change', () => this.update());
    this.opening = new OpeningPanel(site, runtimes, { onEngine: (engine, about) => this.onEngine(engine, about) });
  }

  onEngine(engine, { label = '', whole = true }) {
    this.engine = engine;
    this.label = label;
    byId('whole').checked = whole;
    this.rack.use(engine);
    this.update();
  }

  update() {
    this.conversation?.update();
    this.comparison?.update();
    if (this.engine) byId('status').textContent = `${this.label} · ${this.engine.device} · ${this.acting()}`;
  }

  acting() {
    if (this.engine.remote) return byId('remote-name').value;
    const on = this.rack.entries.filter((entry) => entry.on && entry.state === 'ready').map(({ name }) => name);
    return on.length ? `base with ${on.join(', ')}` : this.alone();
  }

  /** What answers where no adapter acts. */
  alone() {
    return this.engine.merged ? 'merged model' : 'base';
  }

  /** What acts on the next message. */
  async current() {
    return this.engine.remote ? { model: byId('remote-name').value } : { model: this.alone(), ...(await this.rack.current()) };
  }

  /** What may stand side by side. */
  choices() {
    if (this.engine?.remote) return this.engine.models.map((model) => ({ id: model, label: model, make: async () => ({ model }) }));
    const base = { id: 'base', label: 'No adapter', make: async () => ({ adapters: {}, model: this.alone() }) };
    const each = this.rack.entries.map((entry) => ({ id: `one:${entry.name}`, label: entry.name, make: () => this.rack.only(entry) }));
    return [base, ...each, { id: 'current', label: 'What is switched on', make: () => this.current() }];
  }
}

/** @throws {object} with a code, where the tools are not a JSON list */
function requestOptions(signal) {
  const tools = readTools();
  return { tools, maxTokens: Number(byId('max-tokens').value) || 96, temperature: Number(byId('temperature').value) || 0, signal };
}

function readTools() {
  const text = byId('tools').value.trim();
  if (!text) return null;
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw { code: 'parameter_invalid', message: `the tools are no JSON: ${error.message}` };
  }
  if (!Array.isArray(found)) throw { code: 'parameter_invalid', message: 'the tools must be a JSON list' };
  return found.length ? found : null;
}

function checkTools() {
  try {
    readTools();
    byId('tools-error').textContent = '';
  } catch (error) {
    byId('tools-error').textContent = errorLine(error);
  }
}

/** Tabs as the keyboard expects them: arrows move, Tab leaves. */
function setUpTabs() {
  const tabs = [byId('tab-chat'), byId('tab-compare')];
  const choose = (chosen) => {
    for (const tab of tabs) {
      const selected = tab === chosen;
      tab.setAttribute('aria-selected', String(selected));
      tab.tabIndex = selected ? 0 : -1;
      byId(tab.getAttribute('aria-controls')).hidden = !selected;
    }
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener('click', () => choose(tab));
    tab.addEventListener('keydown', ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }
}

/** Beside the chat where there is room; above it, and closed while it is not needed, on a phone. */
function setUpPanel() {
  const wide = matchMedia('(min-width: 56rem)');
  const fit = () => {
    byId('setup').open = wide.matches;
  };
  wide.addEventListener('change', fit);
  fit();
}

/** Keeps the page for when there is no network; a host without headers gets threads from it. */
async function setUpOffline() {
  if (!('serviceWorker' in navigator)) return;
  try {
    await navigator.serviceWorker.register('offline.js');
    if (globalThis.crossOriginIsolated || sessionStorage.getItem(RELOADED)) return;
    await navigator.serviceWorker.ready;
    sessionStorage.setItem(RELOADED, '1'); // once, whatever comes of it
    location.reload();
  } catch {
    // a private window, say: the page works, on one thread and with a network
  }
}

async function start() {
  setUpTabs();
  setUpPanel();
  setUpOffline();
  const [site, runtimes] = await Promise.all([readSite(), findRuntimes()]);
  const app = new App(site, runtimes);
  await app.opening.openFirst();
}

start().catch((error) => byId('model-error').replaceChildren(errorBox(error)));
