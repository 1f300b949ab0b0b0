// JSON lines in: {format, reply, reasons}; JSON out: what each reply is, by lorakit.js.
import { readFileSync, writeFileSync } from 'node:fs';

const [, , web, given, out] = process.argv;
const { parseReply, getFormat, detectFormat } = await import(`${web}/calls.js`);
const { replies, templates } = JSON.parse(readFileSync(given, 'utf8'));
const before = process.cpuUsage();
const parsed = replies.map(({ format, reply, reasons }) =>
  parseReply(reply, format && getFormat(format), reasons),
);
const spent = process.cpuUsage(before);
const ms = (spent.user + spent.system) / 1000;
const formats = templates.map((text) => detectFormat(text)?.name ?? null);
writeFileSync(out, JSON.stringify({ parsed, formats, ms }));
