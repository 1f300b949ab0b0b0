/** The panel that opens a model: runtime, model, form, and what has been fetched meanwhile. */

import { byId, el, errorBox, errorLine, sizeText } from './dom.js';
import { openLocal, openRemote } from './engine.js';
import { keepChoices, readChoices } from './state.js';

const OTHER = {
  hub: { label: 'A model of the Hub…', ask: 'Hub id', example: 'onnx-community/functiongemma-270m-it-ONNX' },
  url: { label: 'A model at a URL…', ask: 'Address of the exported folder', example: 'https://example.org/models/mine/' },
};

const FORMS = ['fp32', 'fp16', 'q8', 'q4', 'q4f16'];
const DTYPES = { none: 'fp32' }; // what an export calls otherwise than transformers.js

export class OpeningPanel {
  /** @param {{onEngine: (engine: object | null, model: object) => void}} page */
  constructor(site, runtimes, page) {
    this.site = site;
    this.runtimes = runtimes;
    this.page = page;
    this.engine = null;
    /** @type {AbortController | null} */
    this.controller = null;
    const choices = readChoices();
    const known = runtimes.find(({ id, available }) => id === choices.runtime && available);
    this.runtime = (known ?? runtimes.find(({ available }) => available)).id;
    this.showRuntimes();
    this.fillModels(choices);
    this.listen();
    this.showForm();
  }

  /** A model of the site is small: it is opened without being asked. */
  async openFirst() {
    if (this.runtime !== 'remote' && this.ownModel()) await this.open();
  }

  showRuntimes() {
    const rows = this.runtimes.map(({ id, label, note, available }) => {
      const input = el('input', { type: 'radio', name: 'runtime', value: id, disabled: !available, checked: id === this.runtime });
      const text = el('span', {}, el('strong', {}, label), el('small', {}, available ? note : `not available: ${note}`));
      return el('label', { className: available ? 'choice' : 'choice off' }, input, text);
    });
    byId('runtimes').replaceChildren(...rows);
  }

  fillModels({ model = '', reference = '', dtype = '' }) {
    const own = this.site.models.map(({ id, label, bytes }) => new Option(`${label} (${sizeText(bytes)})`, id));
    const other = Object.entries(OTHER).map(([id, { label }]) => new Option(label, id));
    const select = byId('model');
    select.replaceChildren(...own, ...other);
    if ([...select.options].some(({ value }) => value === model)) select.value = model;
    byId('model-reference').value = reference;
    this.offerForms(this.ownModel()?.forms ?? FORMS, dtype);
    this.askForms();
  }

  /** The forms that can be opened; what was chosen stays, where it can. */
  offerForms(forms, chosen = byId('dtype').value) {
    byId('dtype').replaceChildren(new Option('as exported', ''), ...forms.map((form) => new Option(form)));
    byId('dtype').value = forms.includes(chosen) ? chosen : '';
  }

  /** What an export at an address holds, as it says itself; of others all forms are offered. */
  async askForms() {
    const { source, id } = this.chosen();
    if (id !== 'url') return this.offerForms(this.ownModel()?.forms ?? FORMS);
    const found = await formsAt(source);
    if (this.chosen().source === source) this.offerForms(found ?? FORMS);
  }

  listen() {
    byId('runtimes').addEventListener('change', ({ target }) => {
      this.runtime = target.value;
      keepChoices({ runtime: this.runtime });
      this.showForm();
      if (this.runtime !== 'remote') this.openFirst();
    });
    byId('model').addEventListener('change', () => {
      byId('model-reference').value = '';
      this.showForm();
      this.askForms();
      this.openFirst();
    });
    byId('model-reference').addEventListener('change', () => this.askForms());
    byId('local-model').addEventListener('submit', (event) => this.submitted(event, () => this.open()));
    byId('remote-model').addEventListener('submit', (event) => this.submitted(event, () => this.connect()));
    byId('cancel-open').addEventListener('click', () => this.controller?.abort());
  }

  submitted(event, act) {
    event.preventDefault();
    act();
  }

  showForm() {
    const remote = this.runtime === 'remote';
    byId('local-model').hidden = remote;
    byId('remote-model').hidden = !remote;
    const other = OTHER[byId('model').value];
    byId('model-reference-row').hidden = !other;
    if (!other) return;
    byId('model-reference-label').textContent = other.ask;
    byId('model-reference').placeholder = other.example;
  }

  ownModel() {
    return this.site.models.find(({ id }) => id === byId('model').value);
  }

  /** Where the chosen model is, and what is said of it. */
  chosen() {
    const own = this.ownModel();
    if (own) return { id: own.id, source: own.path, label: own.label, whole: own.conversation };
    const id = byId('model').value;
    const typed = byId('model-reference').value.trim() || OTHER[id].example;
    return { id, source: id === 'hub' ? `hf:${typed.replace(/^hf:/, '')}` : typed, label: typed, whole: true };
  }

  async open() {
    const { source, label, whole } = this.chosen();
    const dtype = byId('dtype').value;
    const fetched = new Fetched();
    await this.replace(async (signal) => {
      this.showProgress(`Opening ${label}`);
      const engine = await openLocal(source, {
        device: this.runtime, dtype, signal,
        progress: (event) => this.showFetched(fetched.add(event)),
      }); // prettier-ignore
      keepChoices({ model: byId('model').value, reference: byId('model-reference').value.trim(), dtype });
      return { engine, about: { label, whole, fetched } };
    });
  }

  async connect() {
    const url = byId('remote-url').value.trim();
    await this.replace(async (signal) => {
      this.showProgress(`Connecting to ${url}`);
      const engine = await openRemote(url, byId('remote-key').value, signal);
      byId('remote-name').replaceChildren(...engine.models.map((name) => new Option(name)));
      return { engine, about: { label: url, whole: true, fetched: null } };
    });
  }

  /** Close what is open and open another; the last one that was asked for wins. */
  async replace(make) {
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    byId('model-error').replaceChildren();
    byId('model-facts').replaceChildren();
    byId('remote-name-row').hidden = true;
    byId('cancel-open').hidden = false;
    const before = this.engine;
    this.engine = null;
    this.page.onEngine(null, {});
    await before?.close().catch(() => {});
    try {
      const { engine, about } = await make(controller.signal);
      if (this.controller !== controller) {
        await engine.close();
        return;
      }
      this.engine = engine;
      this.showFacts(engine, about);
      this.page.onEngine(engine, about);
    } catch (error) {
      if (this.controller === controller) this.showError(error);
    } finally {
      if (this.controller === controller) this.done();
    }
  }

  done() {
    this.controller = null;
    byId('opening').hidden = true;
    byId('cancel-open').hidden = true;
  }

  showProgress(text) {
    byId('opening').hidden = false;
    byId('progress').removeAttribute('value');
    byId('progress-text').textContent = text;
    byId('status').textContent = text;
  }

  showFetched({ loaded, total, file }) {
    byId('progress').max = Math.max(total, 1);
    byId('progress').value = loaded;
    byId('progress-text').textContent = `${sizeText(loaded)} of ${sizeText(total)} · ${file}`;
  }

  showError(error) {
    byId('model-error').replaceChildren(errorBox(error));
    byId('status').textContent = error.code === 'cancelled' ? 'No model is open.' : errorLine(error);
  }

  showFacts(engine, { fetched }) {
    const rows = engine.remote
      ? [['models', engine.models.length], ['adapters', 'the server’s own: choose a model']]
      : [
          ['runs on', `${engine.device}${engine.dtype ? `, ${engine.dtype}` : ''}`],
          ['files', fetched.text()],
          ['opened in', `${engine.seconds.toFixed(1)} s`],
          ['adapters', engine.takesAdapters ? 'swap while it runs' : 'none: it has no inputs for them'],
        ]; // prettier-ignore
    byId('model-facts').replaceChildren(...rows.flatMap(([name, text]) => [el('dt', {}, name), el('dd', {}, String(text))]));
    byId('remote-name-row').hidden = !engine.remote;
  }
}

/** The forms that an export at an address lists, or null where it lists none. */
async function formsAt(address) {
  try {
    const record = new URL('lorakit.json', new URL(`${address.replace(/\/*$/, '')}/`, document.baseURI));
    const { forms } = await (await fetch(record)).json();
    return Object.keys(forms).map((form) => DTYPES[form] ?? form).filter((form) => FORMS.includes(form));
  } catch {
    return null; // no address yet, no connection, or no export of lorakit's: opening it says which
  }
}

/** Bytes of the files of one opening, and how many of them came over the network. */
class Fetched {
  /** @type {Map<string, {loaded: number, total: number, cached?: boolean}>} */
  files = new Map();

  add({ file, loaded, total, cached }) {
    this.files.set(file, { loaded, total: total || loaded, cached });
    return { file, loaded: this.sum('loaded'), total: this.sum('total') };
  }

  sum(key, which = () => true) {
    return [...this.files.values()].filter(which).reduce((sum, file) => sum + file[key], 0);
  }

  text() {
    const cached = this.sum('loaded', (file) => file.cached);
    const network = this.sum('loaded', (file) => !file.cached);
    if (!cached) return `${sizeText(network)} fetched`;
    return `${sizeText(cached)} from the cache${network ? `, ${sizeText(network)} fetched` : ', nothing fetched'}`;
  }
}
