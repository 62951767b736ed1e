import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkResult, keepReference, relativeError } from '../../bench/check.mjs';
import { summary } from '../../bench/measure.mjs';
import { renderFiles } from '../../bench/render.mjs';
import { aims } from '../../bench/rows.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const size = { B: 16, D: 32, K: 10 };
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'lgdistill-bench-test-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('docs/benchmarks.md', () => {
  it('is what the committed rows give', () => {
    for (const [file, text] of renderFiles())
      expect(readFileSync(join(root, 'docs', file!), 'utf8'), `docs/${file}: run npm run bench -- --render`).toBe(text);
  });
});

describe('npm run bench', () => {
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, [join(root, 'bench/run.mjs'), ...args], { encoding: 'utf8' });

  it('measures and checks ours at a tiny size, without the packages that it compares with', () => {
    const installed = existsSync(join(root, 'bench/node_modules'));
    const out = join(folder, 'rows.jsonl');
    const run = bench(
      '--only',
      'js,native',
      '--ops',
      'bankLoss,bankUpdate',
      '--sizes',
      '16x32x10',
      '--seconds',
      '0.05',
      '--out',
      out,
    );
    expect(run.stderr).toBe('');
    expect(run.status).toBe(0);
    expect(existsSync(join(root, 'bench/node_modules'))).toBe(installed);
    const rows = readFileSync(out, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rows.map(({ implementation, op }) => `${implementation as string} ${op as string}`)).toEqual([
      'js bankLoss',
      'js bankUpdate',
      'native bankLoss',
      'native bankUpdate',
    ]);
    for (const row of rows) {
      expect(row).toMatchObject({
        ...size,
        p20: expect.any(Number),
        p50: expect.any(Number),
        p80: expect.any(Number),
        cpu: expect.any(String),
        commit: expect.any(String),
        node: process.version,
      });
      if (row['implementation'] === 'native')
        expect(row['checked']).toMatchObject({ against: 'js', ok: true, bound: 2e-5 });
    }
  });

  it('refuses what it does not know, and says what there is', () => {
    const run = bench('--only', 'jax');
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(/--only: there is no jax; choose from js, native/u);
    expect(bench('--sizes', '16x32').stderr).toMatch(/16x32 is not a size/u);
    expect(bench('--seconds', 'none').stderr).toMatch(/--seconds: none is not a number above 0/u);
  });
});

describe('what the rows say', () => {
  const gradient = Float32Array.of(1, 2, 3);
  const losses = Float64Array.of(4, 5, 6);

  it('a wrong result exceeds the bound', () => {
    keepReference(folder, 'bankLoss', size, { losses, gradient });
    expect(checkResult(folder, 'bankLoss', size, { losses, gradient }, 2e-5)).toMatchObject({ error: 0, ok: true });
    expect(
      checkResult(folder, 'bankLoss', size, { losses, gradient: Float32Array.of(1, 2, 3.001) }, 2e-5),
    ).toMatchObject({ ok: false, parts: { losses: 0 } });
    expect(relativeError(Float32Array.of(1, 2), gradient)).toBe(Infinity);
  });

  it('one image in another category exceeds the bound', () => {
    const visual = Float32Array.of(1, 0);
    keepReference(folder, 'bankUpdate', size, { assignment: Int32Array.of(0, 1, 2, 3), visual });
    expect(
      checkResult(folder, 'bankUpdate', size, { assignment: Int32Array.of(0, 1, 2, 4), visual }, 2e-5),
    ).toMatchObject({ error: 0.25, ok: false });
  });

  it('percentiles are of the samples', () => {
    const samples = Array.from({ length: 11 }, (_, i) => ({ wall: 10 - i, cpu: 2 * i }));
    expect(summary(samples)).toEqual({ p20: 2, p50: 5, p80: 8, cpuMs: 10, runs: 11 });
  });

  it('an aim is a ratio of medians, against the row that is hardest to beat', () => {
    const row = (implementation: string, kind: string, p50: number) => ({
      implementation,
      kind,
      title: implementation,
      op: 'bankLoss',
      B: 256,
      D: 1024,
      K: 1000,
      p50,
    });
    const rows = [
      row('native', 'ours', 10),
      row('native-resident', 'ours', 5),
      row('js', 'reference', 900),
      row('ml-matrix', 'plain JavaScript', 700),
      row('tfjs-wasm', 'WebAssembly', 25),
      row('sgemm', 'native', 8),
    ];
    expect(aims(rows).map(({ wanted, call, resident }) => [wanted, call, resident])).toEqual([
      [20, 70, 140],
      [3, 2.5, 5],
      [2, 1.25, 0.625],
    ]);
    expect(aims(rows.filter(({ implementation }) => implementation !== 'tfjs-wasm'))).toHaveLength(2);
  });
});
