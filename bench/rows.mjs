// Reads the rows of bench/results and answers questions about them.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'results');

/** One entry a machine: { name, rows }, by file name. */
export function readResults() {
  return readdirSync(folder).filter((file) => file.endsWith('.jsonl')).sort().map((file) => ({
    name: file.replace('.jsonl', ''),
    rows: readFileSync(join(folder, file), 'utf8').trim().split('\n').map((line) => JSON.parse(line)),
  }));
}

export const sizeOf = ({ B, D, K }) => `${B} x ${D} x ${K}`;

/** The size at which the comparisons are stated. */
export const comparedSize = { B: 256, D: 1024, K: 1000 };
const atComparedSize = (row) => sizeOf(row) === sizeOf(comparedSize);

/** Measured rows of an operation at the compared size. */
export const compared = (rows, op) => rows.filter((row) => row.op === op && atComparedSize(row) && row.p50 !== undefined);

/** Whom a row speaks of, with its threads where the title does not tell. */
export function titleOf({ title, threads }) {
  return threads === undefined ? title : `${title}, ${threads} thread${threads === 1 ? '' : 's'}`;
}

/**
 * The package's promises at the compared size, from rows alone: [{ promise, factor, wanted, atMost }]; rows that are missing give no entry.
 * `factor` is a ratio of medians.
 */
export function promises(rows) {
  const entries = [];
  for (const op of ['bankLoss', 'bankUpdate']) {
    const measured = compared(rows, op);
    const native = measured.find(({ implementation }) => implementation === 'native');
    if (!native) continue;
    const fastest = measured.filter(({ kind }) => kind === 'plain JavaScript' || kind === 'reference').sort((a, b) => a.p50 - b.p50)[0];
    if (fastest) entries.push({ op, promise: `times as fast as the fastest plain JavaScript (${fastest.title})`, factor: fastest.p50 / native.p50, wanted: 20 });
    const wasm = measured.find(({ implementation }) => implementation === 'tfjs-wasm');
    if (wasm) entries.push({ op, promise: 'times as fast as tfjs on WASM with SIMD and threads', factor: wasm.p50 / native.p50, wanted: 3 });
    const sgemm = measured.find(({ implementation }) => implementation === 'sgemm');
    if (sgemm) entries.push({ op, promise: "times as long as OpenBLAS's sgemm takes for the products alone", factor: native.p50 / sgemm.p50, wanted: 2, atMost: true });
  }
  return entries;
}
