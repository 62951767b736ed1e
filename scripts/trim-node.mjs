// A copy of a Node executable whose ICU data has English alone: zeros stand for other languages' tables, converters of
// character sets and dictionaries, a tenth of the file that hardly compresses. ICU takes a table that is none for one
// that is missing, and falls back to the root's.
//   node scripts/trim-node.mjs <node> <copy>
import { readFileSync, writeFileSync } from 'node:fs';

/** Where a file holds ICU's common data ("CmnD", unicode/udata.h): the first of its bytes behind the header. */
function findData(file) {
  for (let at = file.indexOf('CmnD'); at >= 0; at = file.indexOf('CmnD', at + 1)) {
    const header = at - 12; // MappedData (2 bytes of length, 0xda, 0x27), then UDataInfo, whose data format this is
    if (header >= 0 && file[header + 2] === 0xda && file[header + 3] === 0x27)
      return header + file.readUInt16LE(header);
  }
  return undefined;
}

/** The tables of the data, by the names and offsets of its table of contents. */
function* tablesOf(data) {
  const count = data.readUInt32LE(0);
  const start = (i) => data.readUInt32LE(8 + 8 * i);
  for (let i = 0; i + 1 < count; i++) {
    const name = data.readUInt32LE(4 + 8 * i);
    const path = data.toString('latin1', name, data.indexOf(0, name));
    yield { path: path.slice(path.indexOf('/') + 1), bytes: data.subarray(start(i), start(i + 1)) };
  }
}

const languages = /(?:^|\/)(?!en[_.]|res_)[a-z]{2,3}(?:_\w+)*\.res$/u;
const others = /\.(?:cnv|dict|spp|brk|cfu)$|^translit\/|^unames\.icu$/u;

const [from, to] = process.argv.slice(2);
const file = readFileSync(from);
const data = findData(file);
if (data !== undefined)
  for (const { path, bytes } of tablesOf(file.subarray(data)))
    if (languages.test(path) || others.test(path)) bytes.fill(0);
writeFileSync(to, file, { mode: 0o755 });
