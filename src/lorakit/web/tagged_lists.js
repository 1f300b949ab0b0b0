/**
 * Tool calls as a JSON list behind a tag: those of Phi 4 mini, and of IBM's Granite 3.0 to 3.3.
 *
 *     <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>
 *
 * Under some templates Phi writes `functools[...]` instead. Granite's list ends with nothing, and
 * `<tool_call>` with its closing tag is read too; of both, so is one call without its list. Granite 4
 * writes as Hermes does. Sources: the models' cards and chat templates, IBM's prompt engineering guide,
 * and the templates of llama.cpp and vLLM.
 */

import { close, faultsFrom, growingList, mendList, readList } from './jsonlist.js';
import { formatOf, syntaxOf } from './scanning.js';
import { searchFrom } from './spaces.js';
import { escaped } from './tags.js';

const TAG = '<|tool_call|>';

/**
 * closed: a tag and what closes it. bare: one that nothing closes. openings: both, as a call begins.
 * again: those that may come where the closing tag is missing. closing: what ends a call that cannot be
 * read.
 * @param {{name: string, closed: [string, string], bare: string, openings: string[], again: string[],
 *   stops: string[], closing?: string}} marks
 */
function listFormat({ name, closed: [open, ending], bare, openings, again, stops, closing = '' }) {
  const pattern = (marks) => marks.map(escaped).join('|');
  const opening = new RegExp(pattern(openings), 'g');
  const syntax = syntaxOf({
    find: (reply, at) => searchFrom(opening, reply, at)?.index ?? -1,
    read(reply, start, calls) {
      if (reply.startsWith(bare, start)) return readList(reply, start + bare.length, calls);
      const end = readList(reply, start + open.length, calls);
      return faultsFrom(end, () => close(reply, end, ending, [...again, ...stops]));
    },
    closing,
    stops,
    openings,
    growing: growingList(pattern([open, bare])),
    mend: (text) => mendList(text, text.startsWith(bare) ? { open: bare, close: '', stops } : { open, close: ending, stops }),
  });
  return formatOf(name, syntax);
}

export const PHI4 = listFormat({
  name: 'phi4',
  closed: [TAG, '<|/tool_call|>'],
  bare: 'functools',
  openings: [TAG, 'functools['],
  again: [TAG],
  stops: ['<|end|>', '<|endoftext|>'],
  closing: '<|/tool_call|>',
});

export const GRANITE = listFormat({
  name: 'granite',
  closed: ['<tool_call>', '</tool_call>'],
  bare: TAG,
  openings: [TAG, '<tool_call>'],
  again: [TAG, '<tool_call>'],
  stops: ['<|end_of_text|>'],
});
