/** A server that speaks OpenAI's chat completions, streamed. */

import { LorakitError } from './lib/lorakit.js';

export class Endpoint {
  constructor(url, key) {
    this.url = url.replace(/\/+$/, '');
    this.headers = { 'Content-Type': 'application/json', ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  /** Names of the models that it serves. @returns {Promise<string[]>} */
  async models(signal) {
    const response = await this.ask('models', { method: 'GET', signal });
    const { data } = await response.json().catch(() => ({}));
    const names = Array.isArray(data) ? data.map(({ id }) => id).filter((id) => typeof id === 'string') : [];
    if (names.length) return names;
    throw new LorakitError(`${this.url} lists no models`, { code: 'source_unsupported', hint: 'the address ends in /v1, mostly' });
  }

  /** { type: 'text', text } ..., { type: 'end', reply }, as a model of this page streams. */
  async *stream(messages, model, { tools, maxTokens, temperature, signal }) {
    const began = performance.now();
    const body = { model, messages, max_tokens: maxTokens, temperature, stream: true, stream_options: { include_usage: true } };
    if (tools) body.tools = tools;
    const response = await this.ask('chat/completions', { method: 'POST', body: JSON.stringify(body), signal });
    const answer = new Answer();
    try {
      for await (const chunk of chunksOf(response.body)) {
        const text = answer.take(chunk);
        if (text) yield { type: 'text', text };
      }
    } catch (error) {
      throw this.failure(error, signal);
    }
    yield { type: 'end', reply: answer.reply((performance.now() - began) / 1000) };
  }

  async ask(path, init) {
    let response;
    try {
      response = await fetch(`${this.url}/${path}`, { ...init, headers: this.headers });
    } catch (error) {
      throw this.failure(error, init.signal);
    }
    if (response.ok) return response;
    const said = (await response.text().catch(() => '')).slice(0, 300);
    const code = response.status === 401 || response.status === 403 ? 'source_denied' : 'request_failed';
    throw new LorakitError(`${this.url} answered ${response.status}: ${said}`, { code });
  }

  failure(error, signal) {
    if (signal?.aborted) return new LorakitError('the request was cancelled', { code: 'cancelled' });
    if (error instanceof LorakitError) return error;
    return new LorakitError(`${this.url} cannot be reached: ${error.message}`, {
      code: 'source_unreachable',
      hint: 'is the server up, and does it allow this page (CORS)?',
    });
  }
}

/** The answer so far, put together from its chunks. */
class Answer {
  text = '';
  finishReason = null;
  usage = {};
  /** @type {{name: string, text: string}[]} */
  calls = [];

  /** @returns {string} the words that a chunk adds */
  take({ choices = [], usage, error }) {
    if (error) throw new LorakitError(error.message ?? 'the server failed', { code: 'request_failed' });
    if (usage) this.usage = usage;
    const [choice] = choices;
    if (!choice) return '';
    this.finishReason = choice.finish_reason ?? this.finishReason;
    const { content, tool_calls: calls = [] } = choice.delta ?? {};
    for (const { index = 0, function: part = {} } of calls ?? []) {
      const call = (this.calls[index] ??= { name: '', text: '' });
      call.name += part.name ?? '';
      call.text += part.arguments ?? '';
    }
    this.text += content ?? '';
    return content ?? '';
  }

  reply(seconds) {
    const calls = [];
    const malformed = [];
    for (const { name, text } of this.calls.filter(Boolean)) {
      try {
        calls.push({ name, arguments: JSON.parse(text || '{}') });
      } catch {
        malformed.push(`${name}(${text})`);
      }
    }
    const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = this.usage;
    return { text: this.text, calls, malformed, finishReason: this.finishReason, usage: { promptTokens, completionTokens, seconds } };
  }
}

/** Values of a stream of server-sent events. */
async function* chunksOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value ?? '')).split(/\r?\n/);
      rest = done ? '' : lines.pop();
      for (const line of lines) {
        const data = /^data: ?(.*)$/.exec(line)?.[1];
        if (data === '[DONE]') return;
        if (data) yield JSON.parse(data);
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
