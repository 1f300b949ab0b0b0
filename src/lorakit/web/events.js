/** Events of a running request as an async iterator; leaving the loop aborts the request. */

/**
 * Of a reply's events the text and the end. Where text was withdrawn, what follows is told from where
 * it goes on from what was told; if it never does, the end has all of it.
 * @param {AsyncIterable<any>} events
 */
export async function* textOf(events) {
  let told = '';
  let text = '';
  for await (const event of events) {
    if (event.type === 'withdrawn') text = '';
    if (event.type === 'end') yield event;
    if (event.type !== 'text') continue;
    text += event.text;
    if (text.length <= told.length || !text.startsWith(told)) continue;
    yield { type: 'text', text: text.slice(told.length) };
    told = text;
  }
}

/**
 * @template T
 * @param {AbortSignal | undefined} signal the caller's
 * @param {(signal: AbortSignal, emit: (event: T) => void) => Promise<T | void>} start runs the
 *   request to its end; what it resolves to, if anything, is the last event
 * @returns {AsyncGenerator<T>}
 */
export async function* eventsOf(signal, start) {
  const leave = new AbortController();
  const stop = () => leave.abort();
  signal?.addEventListener('abort', stop);
  if (signal?.aborted) stop();
  const events = [];
  let outcome = null;
  let wake = () => {};
  const emit = (event) => {
    events.push(event);
    wake();
  };
  const running = start(leave.signal, emit).then(
    (last) => (outcome = { last }),
    (error) => (outcome = { error }),
  );
  running.then(() => wake());
  try {
    while (!outcome || events.length) {
      if (events.length) yield events.shift();
      else await new Promise((resolve) => (wake = resolve));
    }
    if (outcome.error) throw outcome.error;
    if (outcome.last) yield outcome.last;
  } finally {
    signal?.removeEventListener('abort', stop);
    stop();
    await running;
  }
}
