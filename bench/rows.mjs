// Reads the rows of bench/results/peers and answers questions about them.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'results', 'peers');

/** One entry a machine: { name, rows }, by file name. */
export function readResults() {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.jsonl'))
    .sort()
    .map((file) => ({
      name: file.replace('.jsonl', ''),
      rows: readFileSync(join(folder, file), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
    }));
}

export const sizeOf = ({ B, D, K }) => `${B} x ${D} x ${K}`;

/** The size at which the comparisons are stated. */
export const comparedSize = { B: 256, D: 1024, K: 1000 };
const atComparedSize = (row) => sizeOf(row) === sizeOf(comparedSize);

/** Measured rows of an operation at the compared size. */
export const compared = (rows, op) =>
  rows.filter((row) => row.op === op && atComparedSize(row) && row.p50 !== undefined);

/** Whom a row speaks of, with its threads where the title does not tell. */
export function titleOf({ title, threads }) {
  return threads === undefined ? title : `${title}, ${threads} thread${threads === 1 ? '' : 's'}`;
}

/**
 * What the package aims at, at the compared size, from rows alone: [{ op, aim, wanted, atMost, call, resident }], where
 * `call` and `resident` are ratios of medians for the public call with arrays and for banks that stay on the device
 * (all threads). An aim without its rows gives no entry.
 * @returns {{ op: string, aim: string, wanted: number, atMost?: boolean, call?: number, resident?: number }[]}
 */
export function aims(rows) {
  const entries = [];
  for (const op of ['bankLoss', 'bankUpdate']) {
    const measured = compared(rows, op);
    const timeOf = (name) => measured.find(({ implementation }) => implementation === name)?.p50;
    const ours = { call: timeOf('native'), resident: timeOf('native-resident') };
    const ratios = (ratio) =>
      Object.fromEntries(Object.entries(ours).map(([name, time]) => [name, time && ratio(time)]));
    const fastest = measured
      .filter(({ kind }) => kind === 'plain JavaScript' || kind === 'reference')
      .sort((a, b) => a.p50 - b.p50)[0];
    if (fastest)
      entries.push({
        op,
        aim: `times as fast as the fastest plain JavaScript (${fastest.title})`,
        wanted: 20,
        ...ratios((time) => fastest.p50 / time),
      });
    const wasm = timeOf('tfjs-wasm');
    if (wasm)
      entries.push({
        op,
        aim: 'times as fast as tfjs on WASM with SIMD and threads',
        wanted: 3,
        ...ratios((time) => wasm / time),
      });
    const sgemm = timeOf('sgemm');
    if (sgemm)
      entries.push({
        op,
        aim: "times as long as OpenBLAS's sgemm takes for the products alone",
        wanted: 2,
        atMost: true,
        ...ratios((time) => time / sgemm),
      });
  }
  return entries;
}
