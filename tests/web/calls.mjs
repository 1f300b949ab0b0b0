// JSON in: replies {format, reply, tools, reasons, repair, pieces, splits}, templates; JSON out: what each
// reply is by lorakit.js and what it cost (ms), its events in pieces, and the first split at which they are not its parse.
import { readFileSync, writeFileSync } from 'node:fs';

const [, , web, given, out] = process.argv;
const { parseReply, getFormat, detectFormat, readerOf } = await import(`${web}/calls.js`);
const { replies, templates } = JSON.parse(readFileSync(given, 'utf8'));

/** What events say. */
function joined(events) {
  let [text, reasoning, calls, begun] = ['', '', [], null];
  for (const event of events) {
    const { type, index } = event;
    if (index !== undefined && index !== calls.length) throw new Error(`${type} of ${index}`);
    if ('text' in event && !event.text) throw new Error(`${type} is empty`);
    if (type === 'text') text += event.text;
    else if (type === 'reasoning') reasoning += event.text;
    else if (type === 'callStart' && !begun) begun = { name: event.name, text: '' };
    else if (type === 'callArguments') begun.text += event.text;
    else if (type === 'callEnd') {
      const told = { name: begun.name, arguments: JSON.parse(begun.text) };
      if (sorted(told) !== sorted(event.call)) throw new Error(`${sorted(told)} is not ${sorted(event.call)}`);
      calls.push(event.call);
      begun = null;
    } else if (type === 'callWithdrawn' && begun) begun = null;
    else if (type === 'withdrawn') [text, reasoning, calls, begun] = ['', '', [], null];
    else throw new Error(`${type} out of turn`);
  }
  return JSON.stringify([text, reasoning, calls]);
}

/** JSON, keys in order; what is no number there as one that is too large. */
const sorted = (value) =>
  JSON.stringify(value, (_, x) => (x && typeof x === 'object' && !Array.isArray(x) ? Object.fromEntries(Object.entries(x).sort()) : x));

function told(form, pieces, options, whole) {
  const reader = readerOf(form, options);
  return [...pieces.flatMap((piece) => reader.feed(piece)), ...reader.end(whole)];
}

/** The first of every split in two, and of single characters, at which the events say something else. */
function wrongSplit(form, reply, options, whole) {
  const expected = JSON.stringify([whole.text, whole.reasoning, whole.calls]);
  const chars = Array.from(reply);
  for (let at = 0; at <= chars.length; at += 1) {
    const pieces = at ? [chars.slice(0, at).join(''), chars.slice(at).join('')] : chars;
    try {
      const found = joined(told(form, pieces, options, whole));
      if (found !== expected) return { pieces, found };
    } catch (error) {
      return { pieces, found: String(error) };
    }
  }
  return null;
}

const parsed = [];
const ms = [];
const events = [];
const wrong = [];
for (const { format, reply, tools, reasons = false, repair = false, pieces, splits } of replies) {
  const usual = format ? getFormat(format) : null;
  const form = (tools ? usual?.withTools?.(tools) : null) ?? usual;
  const options = { reasons, repair };
  const before = process.cpuUsage();
  const whole = parseReply(reply, form, options);
  parsed.push(whole);
  if (pieces) events.push(told(form, pieces, options, whole));
  const spent = process.cpuUsage(before);
  ms.push((spent.user + spent.system) / 1000);
  const found = splits && wrongSplit(form, reply, options, whole);
  if (found) wrong.push({ format, reply, ...options, whole, ...found });
}
const formats = templates.map((text) => detectFormat(text)?.name ?? null);
writeFileSync(out, JSON.stringify({ parsed, events, wrong, formats, ms }));
