import { expect, test } from 'vitest';
import { lgdistill } from './program.js';
import { common } from './training-fixture.js';

test('bench measures training, inference and the semantic loss', async () => {
  const args = [
    'bench',
    ...common,
    '--seconds',
    '0.05',
    '--batch-size',
    '4',
    '--width-multiplier',
    '0.35',
    '--categories',
    '10',
    '--json',
  ];
  const { code, documents } = await lgdistill(args);
  expect(code).toBe(0);
  const [{ rows }] = documents() as unknown as [
    { rows: { op: string; batch: number; p20: number; p50: number; p80: number; imagesPerSecond: number }[] },
  ];
  expect(rows.map(({ op }) => op)).toEqual([
    'student, training step',
    'student, inference',
    'teacher, inference',
    'semantic loss and bank update',
  ]);
  for (const { batch, p20, p50, p80, imagesPerSecond } of rows) {
    expect(batch).toBe(4);
    expect(p20 > 0 && p20 <= p50 && p50 <= p80).toBe(true);
    expect(imagesPerSecond).toBeCloseTo(4000 / p50, 6);
  }
  const tooLarge = await lgdistill([...args, '--batch-size', '60000', '--data.resolution', '224']);
  expect(tooLarge.code).toBe(1);
  expect(tooLarge.stderr).toMatch(
    /train\.batchSize: too large: [^]*a batch of 60000 images[^]*-> Take a smaller train\.batchSize, or smaller images/u,
  );
  for (const option of ['categories', 'dimension'])
    expect((await lgdistill(['bench', '--device', 'cpu', `--${option}`, '1e12'])).stderr).toContain(
      `${option}: this number does not fit. Found: 1000000000000.`,
    );
});

test('bench names the categories where they are what does not fit', async () => {
  const sizes = ['--resolution', '32', '--dimension', '65536', '--categories', '10000000'];
  const args = [
    'bench',
    '--device',
    'cpu',
    '--student',
    'resnet18',
    '--seconds',
    '0.01',
    '--batch-size',
    '2',
    ...sizes,
  ];
  const { code, stderr } = await lgdistill(args);
  expect(code).toBe(1);
  expect(stderr).toMatch(/categories: too large: [^]* Found: 10000000\.\s+-> Take fewer categories/u);
});
