// OUT: the names that the entry exports.
import { writeFileSync } from 'node:fs';

const [, , web, , out] = process.argv;
writeFileSync(out, JSON.stringify(Object.keys(await import(`${web}/lorakit.js`))));
