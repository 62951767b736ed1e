import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { isWanted } from '../devices.js';
import { buildEmulatedAddon } from '../native/emulated.js';
import { lgdistill } from './program.js';

const small = [
  '--student',
  'mobilenet_v3_small',
  '--width-multiplier',
  '0.1',
  '--resolution',
  '32',
  '--batch-size',
  '8',
  '--categories',
  '60',
  '--dimension',
  '24',
  '--steps',
  '1',
  '--precision',
  'float32',
];

afterEach(() => {
  vi.doUnmock('../../lib/train/verify/verify.js');
  vi.resetModules();
});

describe.skipIf(!isWanted('cuda-emulated', 'the command verify'))('on the emulated GPU', () => {
  beforeAll(() => void buildEmulatedAddon(), 1_200_000);

  test('prints what was compared, and says that it agrees', async () => {
    const { code, documents, stderr } = await lgdistill(['verify', '--device', 'cuda-emulated', ...small, '--json']);
    expect(stderr).toMatch(/^gradients +float32 +\d\.\de-\d +5\.0e-2 +ok$/mu);
    expect(stderr).toMatch(/^steps again +float32 +0 +0 +ok$/mu);
    expect(stderr).toContain('cuda-emulated computes what the CPU does');
    const [{ passed, rows } = {}] = documents();
    expect([code, passed, (rows as unknown[]).length]).toEqual([0, true, 8]);
  });
});

test('a device that computes something else ends it with 1, and how to find the part at fault', async () => {
  vi.resetModules();
  vi.doMock('../../lib/train/verify/verify.js', () => ({
    async *verifyDevice() {
      yield { part: 'loss', precision: 'float32', error: 1e-6, limit: 1e-3, passed: true };
      yield { part: 'gradients', precision: 'float32', error: 0.9, limit: 5e-2, passed: false };
      yield { part: 'gradients', precision: 'bfloat16', error: 1.1, limit: 1.4, passed: true };
    },
  }));
  const { lgdistill: fresh } = await import('./program.js');
  const { code, stdout } = await fresh(['verify', '--device', 'cpu', '--teacher', 'colours.onnx']);
  expect(code).toBe(1);
  expect(stdout).toMatch(/^gradients +float32 +9\.0e-1 +5\.0e-2 +FAILED$/mu);
  expect(stdout).toMatch(/^gradients +bfloat16 +1\.1e\+0 +1\.4e\+0 +too rough to tell$/mu);
  expect(stdout).toContain('it was not compared');
  expect(stdout).toContain('1 of 3 comparisons failed: do not train on this device');
  expect(stdout).toContain('LGDISTILL_FUSION=nodes');
  expect(stdout).not.toContain('--batch-size');
  const few = await fresh(['verify', '--device', 'cpu', '--batch-size', '4']);
  expect([few.code, few.stdout]).toEqual([1, expect.stringContaining('with --batch-size 16 or more')]);
  expect(few.stdout).not.toContain('do not train');
});

test('the CPU is refused within the moment', async () => {
  const { code, stderr } = await lgdistill(['verify', '--device', 'cpu']);
  expect([code, stderr]).toEqual([2, expect.stringContaining('the CPU is what other devices are held against')]);
});
