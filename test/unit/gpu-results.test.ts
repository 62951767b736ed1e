import { execFileSync } from 'node:child_process';
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { describeGaps, profileSteps, readTrace } from '../gpu/gaps.js';

const folder = temporaryFolder();

/** Lines as bench/trace/kernel_trace.cpp writes them: microseconds in, nanoseconds out. */
function trace(
  ...operations: [start: number, end: number, stream: number, launch: number, graph: number, name: string][]
): string {
  return operations.map(([start, end, ...rest]) => [1000 * start, 1000 * end, ...rest].join('\t')).join('\n');
}

describe('gaps inside steps', () => {
  it('are found where nothing runs on any stream', () => {
    const text = trace(
      [0, 5, 7, 1, 0, 'outside a graph'],
      [100, 110, 7, 2, 9, 'a'],
      [112, 120, 7, 2, 9, 'b'],
      [105, 130, 8, 2, 9, 'teacher'],
      [133, 140, 7, 2, 9, 'a'],
      [200, 210, 7, 3, 9, 'a'],
      [218.5, 220, 7, 3, 9, 'b'],
      [220, 222, 8, 3, 9, 'teacher'],
      [222, 230, 7, 3, 9, 'a'],
      [300, 400, 7, 4, 10, 'another, shorter graph'],
    );
    const profile = profileSteps(readTrace(`${text}\n`), 5);
    expect(profile).toMatchObject({
      steps: 2,
      operations: 4,
      overLimit: 1,
      longest: { microseconds: 8.5, after: 'a', before: 'b' },
    });
    expect([profile.length, profile.busy]).toEqual([40, 37]); // the upper median of 40 and 30, of 37 and 21.5
    expect(profile.kernels.map(({ name, count, microseconds }) => [name, count, microseconds])).toEqual([
      ['a', 2, 17.5],
      ['teacher', 1, 13.5],
      ['b', 1, 4.75],
    ]);
  });

  it.each([
    [8, false, '1 over 8 us in 1 steps of 2 operations, the longest 8.5 us'],
    [9, true, '0 over 9 us in 1 steps of 2 operations, the longest 8.5 us'],
  ])('over %i us fail the check: %s', (limit, passed, words) => {
    const long = `${'k'.repeat(80)}<bf16>`;
    const text = trace([200, 210, 7, 3, 9, long], [218.5, 220, 7, 3, 9, 'b']);
    expect(describeGaps(profileSteps(readTrace(text), limit), limit)).toEqual({
      text: `${words} (${'k'.repeat(67)}... -> b); busy 57.5 % of 20 us`,
      passed,
    });
  });

  it('cannot be told where no graph was launched', () => {
    expect(() => profileSteps(readTrace(trace([0, 1, 7, 1, 0, 'a'])), 5)).toThrow('no launch of a graph');
  });
});

describe('kept results', () => {
  const program = fileURLToPath(new URL('../../bench/results.mjs', import.meta.url));
  const run = (args: string[], env: Record<string, string> = {}) =>
    execFileSync(process.execPath, [program, ...args], { encoding: 'utf8', env: { ...process.env, ...env } });

  it('become tables: the newest run, ours beside the fastest of PyTorch', async () => {
    const step = {
      part: 'steps',
      what: 'whole step',
      student: 'resnet18',
      resolution: 224,
      batch: 256,
      unit: 'ms',
      p20: 24,
      p50: 25,
      p80: 26,
    };
    const tuned = [
      { programmatic: true, inOrder: false, oneCarveout: false, milliseconds: 24.5 },
      { programmatic: false, inOrder: true, oneCarveout: true, milliseconds: 23 },
    ];
    const rows = [
      { part: 'semantic', name: 'loss', value: '1e-6', good: true },
      { part: 'semantic', name: 'update', value: '3e-1', good: false },
      {
        part: 'kernels',
        name: 'conv',
        good: true,
        p20: 9,
        p50: 10,
        p80: 11,
        bytes: 2e7,
        operations: 4e9,
        model: 'x, y',
        bound: 'memory',
        share: 0.67,
        error: 1e-3,
        tolerance: 1e-2,
        target: 12,
      },
      {
        ...step,
        framework: 'lgdistill',
        imagesPerSecond: 10_240,
        target: 9000,
        peakBytes: 2e9,
        way: tuned[1],
        ways: tuned,
      },
      { ...step, framework: 'pytorch', imagesPerSecond: 4000, how: 'eager' },
      { ...step, framework: 'pytorch', imagesPerSecond: 8000, how: 'compiled', peakBytes: 4e9 },
      {
        part: 'profile',
        name: 'gaps',
        student: 'resnet18',
        resolution: 224,
        operations: 300,
        length: 25_000,
        busy: 24_500,
        overLimit: 0,
        longest: { microseconds: 3.25 },
        good: true,
      },
    ];
    const [raw, kept] = [join(folder, 'rows.jsonl'), join(folder, 'kept.jsonl')];
    run(['begin', raw], { GPU_CHECK_CARD: 'card', GPU_CHECK_DRIVER: '1.2', GPU_CHECK_COMMIT: 'aaa' });
    await appendFile(
      raw,
      `${JSON.stringify({ part: 'semantic', name: 'old', value: '', good: true })}\n{"part":"semantic","name":"half`,
    );
    expect(run(['add', raw, kept, 'killed'])).toContain('"name":"half');
    run(['begin', raw], { GPU_CHECK_CARD: 'card', GPU_CHECK_DRIVER: '1.2', GPU_CHECK_COMMIT: 'bbb' });
    // the second of what is measured once more
    const ways = [{ products: 'wgmma', launches: 'serialized' }, { products: 'mma.sync' }].map((run) => ({ run }));
    const skipped = { part: 'pytorch', name: 'resnet18 64 px: whole step', value: 'SKIPPED: no time' };
    await appendFile(raw, [ways[0], ...rows, ways[1], skipped].map((row) => `${JSON.stringify(row)}\n`).join(''));
    run(['add', raw, kept]);
    const table = run(['table', kept]);
    expect(table).toContain(
      '| graph of a whole step, ms | early, teacher beside | serialized, teacher before, one carve-out |\n| --- | ---: | ---: |\n| resnet18 224 px, whole step | 24.500 | **23.000** |',
    );
    expect(table).toMatch(/^card, driver 1\.2, commit bbb, [^,]+Z, products by wgmma, launches serialized: /u);
    expect(table).toContain('- PyTorch, resnet18 64 px: whole step: SKIPPED: no time');
    const last = (await readFile(kept, 'utf8')).trim().split('\n').at(-1)!;
    expect(JSON.parse(last)).toMatchObject({
      ...skipped,
      card: 'card',
      commit: 'bbb',
      products: 'mma.sync',
      launches: 'serialized',
    });
    expect(table).not.toContain('aaa');
    expect(table).toContain('| semantic | 2 | 1 |');
    expect(table).toContain('| conv | 10.00 | 9.00 | 11.00 | 2.00 | 400.00 | 67 % | memory | x, y | 1.0e-3 | 1.20 x |');
    expect(table).toContain(
      '| resnet18 224 px, whole step | 25.000 | 10240 | 1.14 x | 2.00 | 8000 (compiled) | 1.28 x | 4.00 |',
    );
    expect(table).toContain('| resnet18 224 px | 300 | 25000 | 98.0 % | 0 | 3.3 |');
    expect(table).toContain('- failed: semantic update: 3e-1');
    expect(run(['table', kept, '--all'])).toMatch(/card, driver 1\.2, commit aaa, 2[^,]*Z, killed: /);
    expect(() => run(['table', join(folder, 'none.jsonl')])).toThrow();
  });
});
