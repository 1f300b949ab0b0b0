/** An answer as it is shown: its words, a card for each call, and what it took. */

import { chips, el } from './dom.js';

/**
 * Who answers, above the words. model: what answers where no adapter acts; missing: adapters that
 * failed, without which the base went on.
 */
export function answerHead({ parts = [], missing = [], model = 'base' }) {
  const head = el('div', { className: 'answer-head' }, parts.length ? chips(parts) : el('span', { className: 'chip' }, model));
  if (missing.length) head.append(el('span', { className: 'chip warn' }, `without ${missing.join(', ')}, which failed`));
  return head;
}

/** All of a reply below its head. */
export function replyNodes(reply) {
  const nodes = [];
  if (reply.reasoning) nodes.push(el('details', { className: 'more' }, el('summary', {}, 'Reasoning'), el('p', { className: 'words' }, reply.reasoning)));
  if (reply.text) nodes.push(el('p', { className: 'words' }, reply.text));
  nodes.push(...reply.calls.map(callCard));
  nodes.push(...(reply.malformed ?? []).map(malformedCard));
  if (!nodes.length) nodes.push(el('p', { className: 'words quiet' }, '(an empty answer)'));
  return nodes;
}

function callCard({ name, arguments: given }) {
  const rows = Object.entries(given).flatMap(([key, value]) => [el('dt', {}, key), el('dd', {}, valueText(value))]);
  const list = rows.length ? el('dl', {}, ...rows) : el('p', { className: 'quiet' }, 'without arguments');
  const title = el('div', { className: 'call-title' }, el('span', { className: 'call-sign', 'aria-hidden': 'true' }, 'ƒ'), el('code', {}, name));
  return el('section', { className: 'call', 'aria-label': `Call of ${name}` }, title, list);
}

function malformedCard(part) {
  const text = typeof part === 'string' ? part : (part.text ?? JSON.stringify(part));
  return el('section', { className: 'call malformed' }, el('div', { className: 'call-title' }, 'A call that cannot be read'), el('pre', {}, text));
}

function valueText(value) {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** 18 tokens · 41 tokens/s · 0.4 s */
export function usageText({ usage = {}, finishReason }) {
  const { completionTokens: tokens, seconds } = usage;
  const parts = [];
  if (tokens !== undefined) parts.push(`${tokens} tokens`);
  if (tokens && seconds) parts.push(`${(tokens / seconds).toFixed(tokens / seconds < 10 ? 1 : 0)} tokens/s`);
  if (seconds !== undefined) parts.push(`${seconds.toFixed(2)} s`);
  if (finishReason === 'length') parts.push('cut at the limit');
  return parts.join(' · ');
}
