// Answers made of tokens that are pieces of text: [{format, pieces, options, stop}] in; out: the events
// of each token, those of the end, the parts, and after how many tokens it stopped.
import { readFileSync, writeFileSync } from 'node:fs';

const [, , web, given, out] = process.argv;
const { Answer } = await import(`${web}/answer.js`);
const { getFormat, parseReply } = await import(`${web}/calls.js`);
const { toolUse } = await import(`${web}/tool_choice.js`);

const found = JSON.parse(readFileSync(given, 'utf8')).map(({ format, pieces, options = {}, stop = [], reasons = false, tools = null }) => {
  const usual = getFormat(format);
  const bound = (tools ? usual.withTools?.(tools) : null) ?? usual;
  const dialogue = {
    reasons,
    decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => pieces[id]))),
    parse: (text, { format: form, repair }) => parseReply(text, form, { reasons, repair }),
  };
  const answer = new Answer(dialogue, { stop, format: bound, use: toolUse([{ name: 'f' }], options) });
  const told = [];
  const refused = [];
  for (let id = 0; id < pieces.length && !answer.stopped; id += 1) {
    if (answer.allows(id)) told.push(answer.push(id));
    else refused.push(id);
  }
  const { parsed, events } = answer.end();
  return { told, rest: events, parsed, refused, raw: answer.text };
});
writeFileSync(out, JSON.stringify(found));
