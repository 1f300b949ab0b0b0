/**
 * The adapters of the page: which there are, which are switched on and at what scale, and what
 * became of each. They are loaded into the model when they are first switched on.
 */

import { byId, el, errorBox, hueOf, numberText, sizeText } from './dom.js';
import { keepChoices, readChoices } from './state.js';

/**
 * One adapter of the page. state: 'idle', 'loading', 'ready', 'failed', or 'fallback', where it
 * failed and the base goes on, because the user said so.
 * @typedef {{name: string, about: string, path: any, source: string, digest?: string, own: boolean,
 *   on: boolean, scale: number, fallback: boolean, hue: string, state: string, error: any, info: any,
 *   loading: Promise<void> | null}} Entry
 */

const ASK = {
  url: ['Address of a PEFT or MLX folder, or of a .safetensors file', 'https://example.org/adapters/mine/'],
  huggingface: ['Hub id, with a revision if you like', 'org/adapter@main'],
};

export class Rack {
  /** @param {{onAdapters: () => void}} page */
  constructor(site, page) {
    this.page = page;
    this.engine = null;
    /** @type {Entry[]} */
    this.entries = [];
    const { adapters = [], switched = {} } = readChoices();
    for (const given of site.adapters) this.push({ ...given, source: 'url', own: true, ...switched[given.name] });
    for (const given of adapters) this.push({ ...given, own: false });
    this.listen();
    this.showForm();
    this.show();
  }

  push({ name, about = '', path, source, digest, own, on = false, scale = 1, fallback = false }) {
    let free = name;
    for (let n = 2; this.entries.some((entry) => entry.name === free); n += 1) free = `${name}-${n}`;
    const hue = hueOf(this.entries.length);
    const entry = { name: free, about, path, source, digest, own, on, scale, fallback, hue, state: 'idle', error: null, info: null, loading: null };
    this.entries.push(entry);
    return entry;
  }

  /** Another model: nothing is loaded in it yet. */
  async use(engine) {
    this.engine = engine;
    for (const entry of this.entries) Object.assign(entry, { state: 'idle', error: null, info: null, loading: null });
    this.show();
    if (engine && !engine.remote) await Promise.all(this.entries.filter(({ on }) => on).map((entry) => this.ensure(entry)));
  }

  /** Load an adapter, if it is not loaded; what fails is kept in its entry. */
  ensure(entry) {
    if (!this.engine || this.engine.remote || entry.state === 'ready') return Promise.resolve();
    entry.loading ??= this.load(entry, this.engine).finally(() => {
      entry.loading = null;
      this.changed();
    });
    return entry.loading;
  }

  async load(entry, engine) {
    Object.assign(entry, { state: 'loading', error: null });
    this.changed();
    const { name, path, source, digest, fallback } = entry;
    try {
      const handle = await engine.load({ name, path, source, ...(digest ? { digest } : {}), onError: fallback ? 'base' : 'raise' });
      if (this.engine !== engine) return;
      if (handle) Object.assign(entry, { state: 'ready', info: handle.info, error: engine.warning(name) ?? null });
      else Object.assign(entry, { state: 'fallback', error: engine.warning(name) });
    } catch (error) {
      if (this.engine === engine) Object.assign(entry, { state: 'failed', error });
    }
  }

  /** Try again, after a failure or a change of mind about it. */
  async retry(entry) {
    await entry.loading;
    entry.state = 'idle';
    await this.ensure(entry);
  }

  async remove(entry) {
    await entry.loading;
    if (entry.state === 'ready') await this.engine?.unload(entry.name).catch(() => {});
    this.entries = this.entries.filter((other) => other !== entry);
    this.changed();
    byId('adapters-title').focus();
  }

  async toggle(entry, on) {
    entry.on = on;
    this.changed();
    if (on) await this.ensure(entry);
  }

  rescale(entry, scale) {
    entry.scale = scale;
    this.keep();
    this.page.onAdapters();
  }

  /** What acts on the next request. Waits for what is loading. @throws what failed, if it blocks */
  async current() {
    const on = this.entries.filter((entry) => entry.on);
    await Promise.all(on.map((entry) => this.ensure(entry)));
    return this.choiceOf(on);
  }

  /** The request's adapters for one entry alone, at its scale. */
  async only(entry) {
    await this.ensure(entry);
    return this.choiceOf([entry]);
  }

  choiceOf(entries) {
    const failed = entries.find(({ state }) => state === 'failed');
    if (failed) throw failed.error;
    const ready = entries.filter(({ state }) => state === 'ready');
    const adapters = Object.fromEntries(ready.map(({ name, scale }) => [name, scale]));
    const missing = entries.filter(({ state }) => state === 'fallback').map(({ name }) => name);
    return { adapters, missing, parts: ready.map(({ name, scale, hue }) => ({ name, scale, hue })) };
  }

  /** Why nothing can be asked now, or ''. */
  blocked() {
    const failed = this.engine && !this.engine.remote && this.entries.filter(({ on, state }) => on && state === 'failed');
    if (!failed?.length) return '';
    const names = failed.map(({ name }) => name).join(', ');
    return `${names} failed to load. Switch it off, try again, or tick “go on with the base”.`;
  }

  changed() {
    this.keep();
    this.show();
    this.page.onAdapters();
  }

  /** For the next visit: not the files of this device, which a page may not open again. */
  keep() {
    const state = ({ on, scale, fallback }) => ({ on, scale, fallback });
    const own = this.entries.filter((entry) => entry.own).map((entry) => [entry.name, state(entry)]);
    const added = this.entries.filter(({ own: ours, source }) => !ours && source !== 'file');
    keepChoices({
      switched: Object.fromEntries(own),
      adapters: added.map((entry) => ({ name: entry.name, path: entry.path, source: entry.source, ...state(entry) })),
    });
  }

  show() {
    const unusable = !this.engine || this.engine.remote;
    const note = byId('adapters-note');
    note.hidden = !this.engine?.remote;
    note.textContent = this.engine?.remote ? 'A server applies its own adapters: choose them as its models.' : '';
    const focus = document.activeElement?.id;
    byId('adapters').replaceChildren(...this.entries.map((entry) => this.row(entry, unusable)));
    if (focus) byId(focus)?.focus();
  }

  row(entry, unusable) {
    const id = `adapter-${entry.name}`;
    const box = el('input', { type: 'checkbox', id, checked: entry.on, disabled: Boolean(this.engine?.remote) });
    box.addEventListener('change', () => this.toggle(entry, box.checked));
    const title = el('label', { for: id, className: 'adapter-name' }, box, el('span', { className: `dot ${entry.hue}` }), el('strong', {}, entry.name));
    const facts = el('small', { className: 'quiet' }, this.facts(entry));
    const row = el('li', { className: `adapter ${entry.state}` }, el('div', { className: 'row' }, title, facts, this.removal(entry)));
    row.append(this.slider(entry, unusable));
    if (entry.error) row.append(this.trouble(entry));
    return row;
  }

  facts({ state, info, about }) {
    if (state === 'loading') return 'loading…';
    if (state === 'ready') return `rank ${info.rank} · ${sizeText(info.bytes)}`;
    return state === 'idle' ? about : 'failed';
  }

  slider(entry, unusable) {
    const id = `scale-${entry.name}`;
    const output = el('output', { for: id }, `× ${numberText(entry.scale)}`);
    const input = el('input', { type: 'range', id, min: 0, max: 2, step: 0.05, disabled: unusable || !entry.on });
    input.value = entry.scale;
    input.setAttribute('aria-label', `Scale of ${entry.name}`);
    input.addEventListener('input', () => {
      output.textContent = `× ${numberText(Number(input.value))}`;
      this.rescale(entry, Number(input.value));
    });
    return el('div', { className: 'row scale' }, input, output);
  }

  removal(entry) {
    if (entry.own) return null;
    const button = el('button', { type: 'button', className: 'small', 'aria-label': `Remove ${entry.name}` }, '×');
    button.addEventListener('click', () => this.remove(entry));
    return button;
  }

  trouble(entry) {
    const box = el('div', { className: 'trouble', role: 'alert' }, errorBox(entry.error));
    if (entry.state === 'ready') return box; // a warning, nothing to decide
    const id = `fallback-${entry.name}`;
    const tick = el('input', { type: 'checkbox', id, checked: entry.fallback });
    tick.addEventListener('change', () => {
      entry.fallback = tick.checked;
      this.retry(entry);
    });
    const again = el('button', { type: 'button', className: 'small' }, 'Try again');
    again.addEventListener('click', () => this.retry(entry));
    box.append(el('div', { className: 'row' }, el('label', { className: 'inline', for: id }, tick, 'Go on with the base'), again));
    return box;
  }

  listen() {
    byId('base-alone').addEventListener('click', () => {
      for (const entry of this.entries) entry.on = false;
      this.changed();
    });
    byId('add-source').addEventListener('change', () => this.showForm());
    byId('add-adapter').addEventListener('submit', (event) => {
      event.preventDefault();
      this.add();
    });
  }

  showForm() {
    const source = byId('add-source').value;
    byId('add-path-row').hidden = source === 'file';
    byId('add-files-row').hidden = source !== 'file';
    byId('add-path').required = source !== 'file';
    byId('add-files').required = source === 'file';
    if (source === 'file') return;
    [byId('add-path-label').textContent, byId('add-path').placeholder] = ASK[source];
  }

  async add() {
    const source = byId('add-source').value;
    const path = source === 'file' ? [...byId('add-files').files] : byId('add-path').value.trim();
    const name = byId('add-name').value.trim() || nameOf(path);
    const entry = this.push({ name, path, source, own: false, fallback: byId('add-fallback').checked, on: true });
    byId('add-adapter').reset();
    this.showForm();
    this.changed();
    await this.ensure(entry);
  }
}

/** The folder or the file: names that all adapters have say nothing. */
function nameOf(path) {
  const file = typeof path === 'string' ? null : (path.find(({ name }) => name.endsWith('.safetensors')) ?? path[0]);
  const text = file ? file.webkitRelativePath || file.name : path;
  const parts = text.split(/[?#]/)[0].split('/').map((part) => part.split('@')[0].replace(/\.(safetensors|json|npz)$/, ''));
  return parts.findLast((part) => part && !/^adapters?(_model|_config)?$/.test(part)) ?? 'my-adapter';
}
