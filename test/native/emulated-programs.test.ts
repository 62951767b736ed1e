import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { countRequests } from '../../scripts/kernels/requests.mjs';
import { bytesOf, countTraffic } from '../../scripts/kernels/traffic.mjs';
import { isWanted } from '../devices.js';
import { barrierAt, buildEmulatedPrograms, runProgram, runTests } from './emulated.js';

// Every CUDA kernel runs on the host, thread by thread, and is held to its CPU twin. Then with AddressSanitizer in the kernels, which names a read or
// write past an allocation or past the shared memory asked for; and with a check for races (emulation/races.h). These two take a part of the shapes.
describe.skipIf(!isWanted('cuda-emulated', 'kernels without Node'))('CUDA kernels, emulated', () => {
  describe.each([[undefined, 'forward', 1], ['address', 'random', 3], ['races', 'reverse', 8]] as const)('sanitizer %s, %s order', (sanitizer, order, every) => {
    let folder = '';
    beforeAll(() => {
      folder = buildEmulatedPrograms(sanitizer);
    }, 1_200_000);

    it.each([
      ['cuda_ops', ['small', `every=${every}`], /cuda operations: [1-9]\d+ checks, 0 failed; dense products by warps\s*$/, {}],
      ['cuda_ops', ['small', `every=${sanitizer === undefined ? 1 : 2 * every}`, 'conv'], /cuda operations: [1-9]\d+ checks, 0 failed; dense products by warpgroups\s*$/, { LGDISTILL_WGMMA: '1' }],
      ['cuda_ops', [...(sanitizer === undefined ? [] : ['small']), 'deferred'], /cuda operations: 2 checks, 0 failed/, {}],
      ['cuda_augment', [], /^[1-9]\d+ checks, 0 failures\s*$/, {}],
      ['cuda_semantic', [], /semantic: [1-9]\d+ checks, 0 failed/, {}],
      ['cuda_streams', [], /^[1-9]\d+ checks, 0 failures\s*$/, {}],
      ['kernels', ['small'], /kernels: 0 failed\s*$/, {}],
      ...(sanitizer === undefined ? [['cuda_semantic', ['rows'], /semantic: 3 checks, 0 failed/, {}] as const] : []),
      // on a GPU whose blocks have less shared memory: the ways around what does not fit
      ...(sanitizer === undefined ? [['small', 'every=3'], ['small', 'many channels'], ['small', 'pointwise']].map((args) => ['cuda_ops', args, /cuda operations: [1-9]\d* checks, 0 failed/, { LGDISTILL_EMULATION_SHARED: '99' }] as const) : []),
      ...(sanitizer === undefined ? ([{}, { LGDISTILL_SCORE_BYTES: '1' }, { LGDISTILL_SCORE_BYTES: '20000' }] as Record<string, string>[]).map((env) => ['cuda_semantic', [], /semantic: [1-9]\d+ checks, 0 failed/, { LGDISTILL_EMULATION_SHARED: '99', ...env }] as const) : []),
    ] as const)('%s %s', (program, args, closing, env) => {
      const { status, output } = runProgram(join(folder, program), [...args], { LGDISTILL_EMULATION_ORDER: order, ...env });
      expect(output).toMatch(closing);
      expect(status).toBe(0);
    }, 900_000);
  });

  it.each([
    ['cuda_semantic', 'native/semantic/bank_update.cu', 'every thread has read the flag', /races in update_kernel\n {2}global memory: .*bank_update\.cu:\d+\) what .* read/u],
    ['cuda_semantic', 'native/semantic/products_f16.cuh', '', /races in .*\n {2}byte \d+ of dynamic shared memory/u],
    ['cuda_augment', 'native/augment/augment.cu', '', /races in .*\n {2}a __shared__ variable/u],
  ])('finds a barrier that is left out: %s, %s', (program, file, beside, found) => {
    const { status, output } = runProgram(join(buildEmulatedPrograms('races'), program), [], { LGDISTILL_EMULATION_WITHOUT: barrierAt(file, beside) });
    expect(output).toMatch(found);
    expect(status).not.toBe(0);
  }, 1_200_000);

  it('finds a barrier that is left out, in an addon', () => {
    const addon = join(buildEmulatedPrograms('races'), 'lgdistill.node');
    const { status, output } = runTests(['test/native/classifier.test.ts'], {
      LGDISTILL_TEST_DEVICES: 'cuda-emulated', LGDISTILL_EMULATED_ADDON: addon, LGDISTILL_EMULATION_WITHOUT: barrierAt('native/semantic/block_reduce.cuh', 'the parts are there'),
    });
    expect(output).toMatch(/races in softmax_rows_kernel/u);
    expect(status).not.toBe(0);
  }, 1_200_000);

  it('has no races in the kernels that no program calls, by their own tests on an addon with the check', () => {
    const addon = join(buildEmulatedPrograms('races'), 'lgdistill.node');
    const files = ['classifier', 'detection-loss', 'feature-loss', 'semantic-head', 'semantic-stream'].map((name) => `test/native/${name}.test.ts`);
    const { status, output } = runTests([...files, '--testNamePattern', '^(?!.*(paper_size|many_classes))'], { // these two take the check longest
      LGDISTILL_TEST_DEVICES: 'cuda-emulated', LGDISTILL_EMULATED_ADDON: addon, LGDISTILL_EMULATION_ORDER: 'reverse',
    });
    expect(output).toMatch(/Tests .*[1-9]\d+ passed/u);
    expect(status).toBe(0);
  }, 1_200_000);

  it('has fused steps that move the bytes they are meant to', () => {
    const addon = join(buildEmulatedPrograms('races'), 'lgdistill.node');
    const batch = 8;
    const rows = countTraffic(addon, { student: 'mobilenet_v3_small', resolution: 64, batch });
    const sgd = rows.find(({ name }) => name === 'sgd_kernel')!;
    expect((sgd.read + sgd.written) / 1_850_208).toBeCloseTo(22, 0); // bytes a parameter: value, gradient and momentum in float32 read, two written, the bfloat16 copy
    const megabytes = bytesOf(rows) / batch / 1e6; // 5.03; without fusion 8.04, with norms fused to their activations alone 7.00
    expect(megabytes).toBeLessThan(5.1);
    expect(megabytes).toBeGreaterThan(4.5);
  }, 1_200_000);

  it('has products without bank conflicts, whose accesses are whole sectors', () => {
    const addon = join(buildEmulatedPrograms('races'), 'lgdistill.node');
    const rows = countRequests(addon, { student: 'mobilenet_v3_small', resolution: 64, batch: 8 });
    const excess = (memory: string, kernel: RegExp) => {
      const wanted = rows.filter((row) => row.memory === memory && kernel.test(row.kernel));
      const sum = (name: 'waves' | 'least') => wanted.reduce((total, row) => total + row[name], 0);
      expect(sum('least')).toBeGreaterThan(1000);
      return sum('waves') / sum('least');
    };
    expect(excess('shared', /^matrix_kernel<bf16/u)).toBeLessThan(1.01);
    expect(excess('shared', /^pointwise_kernel/u)).toBeLessThan(1.4);
    expect(excess('global', /StoreStatistics|ReachTarget/u)).toBeLessThan(1.1);
  }, 1_200_000);
});
