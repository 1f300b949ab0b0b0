/**
 * A service worker: after the first visit the page opens without its server, and a host that sets
 * no headers (GitHub Pages) still gives it threads.
 *
 * The network comes first, so that a new version is never hidden by an old one. Models and adapters
 * are not its business: lorakit.js keeps them, by what is in them.
 */

const CACHE = 'lorakit-demo-page';
const NOT_MINE = /\/(models|adapters)\//;
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

self.addEventListener('install', (event) => event.waitUntil(keepPage().then(() => self.skipWaiting())));
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== location.origin || NOT_MINE.test(url.pathname)) return;
  event.respondWith(answer(request));
});

/** The files that site.json lists. */
async function keepPage() {
  const { files } = await (await fetch('site.json')).json();
  const cache = await caches.open(CACHE);
  await cache.addAll(['./', 'site.json', ...files]);
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return isolated(response);
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return isolated(kept);
    throw error;
  }
}

function isolated(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
