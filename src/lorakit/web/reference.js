/**
 * What a reference names: files of the user's, a path or an address, or hf:org/repo[@rev][/folder].
 * It only reads the text, by the rules of lorakit's Python side (sources/reference.py).
 */

import { LorakitError } from './errors.js';

const HUB = 'https://huggingface.co';
const SOURCES = ['auto', 'url', 'file', 'huggingface'];
const IN_FOLDER = new Set(['adapter_config.json', 'adapter_model.safetensors', 'adapters.safetensors', 'adapter_model.bin']);
const ONE_FILE = /\.(?:safetensors|gguf|onnx_adapter)$/i;
const SCHEME = /^[A-Za-z][A-Za-z0-9+.-]+:\/\//;
const REPO = /^[\w.-]+(?:\/[\w.-]+)?$/;
const PIN = /^#sha256=([0-9a-fA-F]{64})$/;
export const DIGEST = /^(?:sha256:)?([0-9a-fA-F]{64})$/;
const HUB_FORM = 'hf:org/repo[@revision][/folder]';

/**
 * @typedef {{kind: 'files', files: Iterable<File>, name: string} | {kind: 'path', path: string, name: string}
 *   | {kind: 'url', url: string, file: string, folder: string, sha256: string, name: string}} Reference
 *   url: file names the one file that it is, or of a folder, and is empty for a folder; folder ends
 *   in a slash
 */

/**
 * @param {string | URL | File | Iterable<File>} path @param {string} [source]
 * @param {{endpoint?: string, base?: string}} [options] endpoint: of the Hub, or a mirror of it;
 *   base: what a relative address is relative to, the page's own by default; empty for none
 * @returns {Reference} Throws parameter_invalid.
 */
export function parseReference(path, source = 'auto', { endpoint = HUB, base = globalThis.location?.href ?? '' } = {}) {
  if (!SOURCES.includes(source)) throw wrong(`source is ${SOURCES.join(' or ')}, not ${String(source).slice(0, 80)}`);
  const files = filesOf(path);
  if (files) {
    if (source === 'url' || source === 'huggingface') throw wrong(`a file is no source of the kind ${source}`);
    return { kind: 'files', files, name: nameOfFiles(files) };
  }
  const text = path instanceof URL ? path.href : path;
  if (typeof text !== 'string' || !text)
    throw wrong('an adapter is named by a path, a URL, hf:org/repo, or files that the user chose', { hint: 'is a variable unset?' });
  if (source === 'huggingface' || (source === 'auto' && text.startsWith('hf:'))) return hubReference(text.replace(/^hf:/, ''), endpoint);
  if (!base && source !== 'url' && !SCHEME.test(text)) return { kind: 'path', path: text, name: plain(lastOf(text)) };
  if (source === 'file') throw wrong(`${shownUrl(text)} is no file`, { hint: 'a page gets files from <input type="file">' });
  return urlReference(text, base);
}

/** An address for messages: without user, password, query and fragment. @param {string} url */
export function shownUrl(url) {
  const bare = url.split(/[?#]/)[0].replace(/\/\/[^/@]*@/, '//');
  return url.includes('?') ? `${bare}?...` : bare;
}

/** 64 hex digits of a digest that the user gave, or nothing. @param {string | undefined} digest */
export function pinOf(digest) {
  if (!digest) return '';
  const found = DIGEST.exec(digest);
  if (!found) throw wrong(`${String(digest).slice(0, 80)} is no digest`, { hint: 'sha256: and 64 hex digits' });
  return found[1].toLowerCase();
}

/** Throws parameter_invalid unless it is https, of the page's own origin, or of this machine. */
export function requireAllowed(url, base) {
  const where = shownUrl(url.href);
  if (!/^https?:$/.test(url.protocol)) throw wrong(`${where} is no http(s) URL`, { hint: `give a path, https://..., or ${HUB_FORM}` });
  if (url.username || url.password) throw wrong(`${where} came with a user name or a password, which lorakit does not send`);
  const own = base && new URL(base).origin === url.origin;
  if (url.protocol === 'http:' && !own && !isLoopback(url.hostname))
    throw wrong(`${where}: http:// is for this machine and the page's own server only`, {
      hint: 'use https://; what comes over http can be changed on the way',
    });
}

function isLoopback(host) {
  return host === 'localhost' || host === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(host);
}

function filesOf(path) {
  if (typeof Blob !== 'undefined' && path instanceof Blob) return [path];
  const several = path && typeof path === 'object' && Symbol.iterator in path && !(path instanceof URL);
  const files = several ? [...path] : null;
  if (!files) return null;
  if (!files.length || !files.every((file) => typeof Blob !== 'undefined' && file instanceof Blob)) throw wrong('these are no files');
  return files;
}

function nameOfFiles(files) {
  const folder = files[0].webkitRelativePath?.split('/').at(-2);
  return folder || (files.length === 1 ? plain(files[0].name ?? '') : '') || 'adapter';
}

function urlReference(text, base) {
  let url;
  try {
    url = new URL(text, base || undefined);
  } catch {
    throw wrong(`this URL cannot be read: ${shownUrl(text)}`);
  }
  requireAllowed(url, base);
  const pin = PIN.exec(url.hash);
  if (url.hash && !pin) throw wrong(`${shownUrl(url.href)}: the part after # cannot be read`, { hint: '#sha256= and 64 hex digits' });
  url.hash = '';
  return located(url, pin ? pin[1].toLowerCase() : '');
}

/** A file, a file of a folder, or a folder. */
function located(url, sha256) {
  const last = decoded(url.pathname.slice(url.pathname.lastIndexOf('/') + 1));
  const one = IN_FOLDER.has(last) || ONE_FILE.test(last) || url.search || sha256;
  const file = one ? last || 'file' : '';
  if (sha256 && !last) throw wrong(`${shownUrl(url.href)}: #sha256= is for the URL of a file, not of a folder`);
  const folder = file ? new URL('.', url).href : new URL(`${url.pathname.replace(/\/+$/, '')}/`, url.origin).href;
  const named = file && !IN_FOLDER.has(file) ? file : lastOf(decoded(new URL(folder).pathname));
  return { kind: 'url', url: url.href, file, folder, sha256, name: plain(named) || url.hostname };
}

function hubReference(text, endpoint) {
  const [, repo, revision = 'main', inside] = split(text);
  const steps = inside.split('/').filter(Boolean);
  const climbs = [...steps, ...repo.split('/')].some((step) => step === '.' || step === '..');
  if (!REPO.test(repo) || !revision || climbs) throw wrong(`hf:${text} names no repository`, { hint: HUB_FORM });
  const root = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (!root) throw wrong(`the endpoint is no URL: ${shownUrl(String(endpoint).slice(0, 200))}`);
  requireAllowed(root, globalThis.location?.href);
  const path = [repo, 'resolve', encodeURIComponent(revision), ...steps.map(encodeURIComponent)].join('/');
  const place = located(new URL(`${root.href.replace(/\/+$/, '')}/${path}`), '');
  return { ...place, name: plain(steps.filter((step) => !IN_FOLDER.has(step)).at(-1) ?? lastOf(repo)) };
}

/** [, repo, revision, folder]; refs/pr/1 and refs/convert/x are revisions with slashes. */
function split(text) {
  const [head, tail] = [text.split('@')[0], text.slice(text.indexOf('@') + 1)];
  if (!text.includes('@')) {
    const parts = head.split('/');
    return ['', parts.slice(0, 2).join('/'), undefined, parts.slice(2).join('/')];
  }
  const parts = tail.split('/');
  const length = parts[0] === 'refs' ? 3 : 1;
  return ['', head, decoded(parts.slice(0, length).join('/')), parts.slice(length).join('/')];
}

function lastOf(path) {
  return path.split(/[/\\]/).filter(Boolean).at(-1) ?? '';
}

function plain(name) {
  return name.replace(/\.safetensors$/i, '');
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function wrong(message, facts) {
  return new LorakitError(message, { code: 'parameter_invalid', ...facts });
}
