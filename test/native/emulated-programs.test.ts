import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { bytesOf, countLaunches, multiprocessorsFor, sumByName, wavesOf } from '../../scripts/kernels/cost.mjs';
import { calibrate } from '../../scripts/kernels/clock.mjs';
import { makePtx, makeRegisters } from '../../scripts/kernels/ptx.mjs';
import { cudaTool } from '../../scripts/sources.mjs';
import { nameKernels } from '../../scripts/kernels/report.mjs';
import { isWanted } from '../devices.js';
import { barrierAt, buildEmulatedAddon, buildEmulatedPrograms, runProgram, runTests } from './emulated.js';
import { andAll, testsAll } from '../shared.js';

const hasNvcc = cudaTool('nvcc') !== undefined;
if (!hasNvcc) console.log('SKIPPED kernels by their PTX: there is no nvcc to make it');

const closings = {
  cuda_ops: /cuda operations: [1-9]\d* checks, 0 failed; dense products by warps, added as (Ampere|Hopper)'s\s*$/,
  cuda_augment: /^[1-9]\d+ checks, 0 failures\s*$/,
  cuda_semantic: /semantic: [1-9]\d* checks, 0 failed/,
  cuda_streams: /^MEASURED a step of small kernels with programmatic launches: .*\n[1-9]\d+ checks, 0 failures\s*$/,
  kernels: /kernels: 0 failed\s*$/,
  far: /^far elements: [1-9]\d+ checks, 0 failed\s*$/,
};
type Program = keyof typeof closings;

function expectPass(
  folder: string,
  program: Program,
  args: readonly string[],
  env: Record<string, string>,
  closing: RegExp = closings[program],
): void {
  const { status, output } = runProgram(join(folder, program), [...args], { LGDISTILL_EMULATION_PTX: '', ...env });
  expect(output).toMatch(closing);
  expect(status).toBe(0);
}

const byWarpgroups = /cuda operations: [1-9]\d* checks, 0 failed; dense products by warpgroups, added as Hopper's\s*$/;

/** Waves of all accesses of some kernels to one memory, over the least that they would take. */
function excess(rows: ReturnType<typeof sumByName>, memory: 'shared' | 'global', kernel: RegExp): number {
  const sums = rows.filter(({ name }) => kernel.test(name)).map((row) => wavesOf(row, memory));
  const total = (name: 'waves' | 'least') => sums.reduce((sum, waves) => sum + waves[name], 0);
  expect(total('least')).toBeGreaterThan(1000);
  return total('waves') / total('least');
}

/**
 * PTX is what a GPU runs, and takes less time: with it, the host compiler's code has only what no PTX has, or all
 * where that is asked for.
 */
const fibersToo = !hasNvcc || testsAll("streams, wide and 1x1 convolutions by the host compiler's code");
const farToo = testsAll('elements that lie further than 32 bits count');

/** Another card than an H100: blocks have less shared memory, and grids fewer blocks. */
const card99 = { LGDISTILL_EMULATION_SHARED: '99', LGDISTILL_EMULATION_MULTIPROCESSORS: '82' };

/**
 * Every how many-th check fibers make: where there is PTX, all of them are made with that. `without`: where there is
 * none.
 */
const shareOf = (every: number, without = 1): string => `every=${hasNvcc ? every : without}`;

// Every CUDA kernel runs on the host and is held to its CPU twin: as the host's compiler has it, a fiber a thread.
describe.skipIf(!isWanted('cuda-emulated', 'kernels without Node'))('CUDA kernels, emulated', () => {
  let folder = '';
  beforeAll(() => {
    folder = buildEmulatedPrograms();
  }, 1_200_000);

  it.each([
    ['cuda_ops', ['small', shareOf(9)], {}],
    ...['add', 'drop', 'unpack', 'adamw', 'clip'].map(
      (part) => ['cuda_ops', ['small', part], { LGDISTILL_EMULATION_MULTIPROCESSORS: '1' }] as const,
    ), // blocks go around more than once
    ['cuda_ops', ['deferred'], {}],
    // as a GPU makes it: of a million elements some lie where relu's slope jumps
    ['cuda_ops', ['norm_act 777x1280 act 1'], {}],
    ['cuda_augment', [], {}],
    ['cuda_semantic', [], {}],
    ['cuda_semantic', ['rows'], {}],
    ...(fibersToo ? [['cuda_streams', [], { LGDISTILL_PDL: '1' }] as const] : []),
    // as a card without early starts is with a toolkit that knows no carve-outs in graphs
    [
      'cuda_streams',
      [],
      { LGDISTILL_EMULATION_FAULT: 'cudaGraphKernelNodeSetAttribute:1:cudaErrorNotSupported' },
      /^SKIPPED programmatic launches: .*\n[1-9]\d+ checks, 0 failures\s*$/u,
    ],
    ['kernels', ['small'], {}],
    ...(hasNvcc || !farToo ? [] : [['far', [], {}] as const]), // by its PTX it takes less time
    // the ways around what does not fit
    ...[
      ['small', shareOf(9, 5)],
      ['small', 'many channels'],
      ['small', 'pointwise'],
    ]
      .slice(0, fibersToo ? undefined : 1)
      .map((args) => ['cuda_ops', args, card99] as const),
    ...([{}, { LGDISTILL_SCORE_BYTES: '1' }, { LGDISTILL_SCORE_BYTES: '20000' }] as Record<string, string>[]).map(
      (env) => ['cuda_semantic', [], { ...card99, ...env }] as const,
    ),
  ] as const)(
    '%s %s %s',
    (program, args, env, closing?: RegExp) => expectPass(folder, program, args, env, closing),
    900_000,
  );

  it(
    'cuda_ops, products of warpgroups',
    () => expectPass(folder, 'cuda_ops', ['small', shareOf(9), 'conv'], { LGDISTILL_WGMMA: '1' }, byWarpgroups),
    900_000,
  );
});

// And as nvcc has it, which is what a GPU runs: its PTX, instruction by instruction (emulation/ptx). With
// AddressSanitizer in what executes it, for what that does itself: accesses past an allocation it refuses in any case;
// and with a check for races.
describe.skipIf(!hasNvcc || !isWanted('cuda-emulated', 'kernels by their PTX'))('CUDA kernels by their PTX', () => {
  let [folder, addon, ptx] = ['', '', ''];
  beforeAll(async () => {
    [folder, addon, ptx] = [buildEmulatedPrograms(), buildEmulatedAddon(), await makePtx('90a')];
  }, 1_200_000);

  describe.each([
    ['sm_90a', 'forward', '90a', undefined, {}, 1, 1],
    ['sm_80, AddressSanitizer', 'random', '80', 'address', {}, 8, undefined],
    ['sm_90a, races', 'reverse', '90a', undefined, { LGDISTILL_EMULATION_RACES: '1' }, 7, 14],
  ] as const)('%s, %s order', (_, order, virtual, sanitizer, watching, every, everyByWarpgroups) => {
    let programs = '';
    const env: Record<string, string> = { LGDISTILL_EMULATION_ORDER: order, ...watching };
    beforeAll(async () => {
      programs = buildEmulatedPrograms(sanitizer);
      env['LGDISTILL_EMULATION_PTX'] = await makePtx(virtual);
    }, 1_200_000);

    it.each<readonly [Program, readonly string[]]>([
      ['cuda_ops', ['small', `every=${every}`]],
      ...(every > 1 ? [['cuda_ops', ['small', 'deferred']] as const] : farToo ? [['far', []] as const] : []),
      ['cuda_augment', []],
      ['cuda_semantic', []],
      ['cuda_streams', []],
      ['kernels', ['small']],
    ])('%s %s', (program, args) => expectPass(programs, program, args, { ...env, LGDISTILL_PDL: '1' }), 900_000);

    if (everyByWarpgroups !== undefined)
      it(
        'cuda_ops, products of warpgroups',
        () =>
          expectPass(
            programs,
            'cuda_ops',
            ['small', `every=${everyByWarpgroups}`, 'conv'],
            { ...env, LGDISTILL_WGMMA: '1' },
            byWarpgroups,
          ),
        900_000,
      );
  });

  const trained = andAll('resnet18 by products of warpgroups', ['mobilenet_v2', 'efficientnet_b0'], ['resnet18']);
  it('trains students by products of warpgroups', () => {
    // tiny products fill one multiprocessor
    const env = {
      LGDISTILL_TEST_DEVICES: 'cuda-emulated',
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_WGMMA: '1',
      LGDISTILL_EMULATION_MULTIPROCESSORS: '1',
    };
    // float32's products are formed by warps in any case
    const { status, output } = runTests(
      ['test/integration/cuda-students.test.ts', '--testNamePattern', `(${trained.join('|')}) trains in bfloat16`],
      env,
    );
    expect(output).toMatch(new RegExp(`Tests .*${trained.length} passed`, 'u'));
    expect(status).toBe(0);
  }, 900_000);

  it('has a teacher whose products of warpgroups give what the CPU gives', () => {
    const env = {
      LGDISTILL_TEST_DEVICES: 'cuda-emulated',
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_WGMMA: '1',
      LGDISTILL_EMULATION_MULTIPROCESSORS: '1',
    };
    const { status, output } = runTests(
      [
        'test/integration/cuda-emulated.test.ts',
        '--testNamePattern',
        'CLIP ResNet in bfloat16|native teacher in bfloat16',
      ],
      env,
    );
    expect(output).toMatch(/Tests .*2 passed/u);
    expect(status).toBe(0);
  }, 900_000);

  // Tiles and loaders that no layer of the trial reached would be used untried.
  it('tries every tile of warpgroups and every way in which their operands come, on as many multiprocessors as an H100 has', () => {
    const counts = join(mkdtempSync(join(tmpdir(), 'lgdistill-trial-')), 'counts');
    const program =
      "const addon = require(process.argv[1]); addon.wgmmaDifference(addon.openDevice('cuda', 0, 1)).then((apart) => { console.log(apart); process.exit(); })";
    const { status, output } = runProgram(process.execPath, ['-e', program, addon], {
      LGDISTILL_WGMMA: '1',
      LGDISTILL_EMULATION_MULTIPROCESSORS: '132',
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_EMULATION_COUNTS: counts,
      LGDISTILL_EMULATION_ORDER: 'forward',
    });
    expect([status, Number(output)]).toEqual([0, 0]);
    const names = [
      ...nameKernels([
        ...new Set(
          readFileSync(counts, 'utf8')
            .trim()
            .split('\n')
            .map((line) => (JSON.parse(line) as { symbol: string }).symbol),
        ),
      ]).values(),
    ];
    const byGroups = names
      .map((name) =>
        /^matrix_kernel<bf16, Tile<(\d+, \d+), 4, 1, (\d), \d, true>, (\w+)\/\w+, (\w+)\//u.exec(name)?.slice(1),
      )
      .filter((found) => found !== undefined);
    expect(new Set(byGroups.map(([tile]) => tile))).toEqual(new Set(['128, 128', '128, 64', '64, 128', '64, 64']));
    expect(new Set(byGroups.map(([, stages]) => stages))).toEqual(new Set(['3', '4', '6']));
    expect(new Set(byGroups.flatMap(([, , ...operands]) => operands))).toEqual(
      new Set(['Rows', 'Columns', 'Patches', 'PatchColumns', 'Reaching', 'PhaseWeights', 'WindowPatches', 'RowsOfTwo']),
    );
  }, 300_000);

  // What the instrument is worth: each of these is a fault that the fibers cannot have.
  it.each<[fault: string, pattern: RegExp, put: string, found: RegExp, byWarpgroups?: true]>([
    [
      'a store past the end of its memory',
      /(st\.global\.(?:b|f|u)(?:16|32)[ \t]+\[%rd\d+)\]/gu,
      '$1+64]',
      /an access of \d+ bytes of global memory that are no allocation's/u,
    ],
    [
      'fragments that are not transposed',
      /ldmatrix\.sync\.aligned\.m8n8\.x4\.trans\.shared\.b16/gu,
      'ldmatrix.sync.aligned.m8n8.x4.shared.b16',
      /relative error/u,
    ],
    ['a wait for copies that is too late', /cp\.async\.wait_group 1;/gu, 'cp.async.wait_group 2;', /relative error/u],
    [
      'a misaligned vector',
      /(ld\.shared\.v4\.\w+ \t?\{[^}]*\}, \[%r\d+)\]/gu,
      '$1+4]',
      /misaligned access of 16 bytes of shared memory/u,
    ],
    [
      'a collective that not all lanes reach',
      /\n(\tshfl\.sync\.bfly\.b32[^\n]*)/u,
      '\n\tsetp.ne.s32 \t%p1, %laneid, 0;\n\t@%p1 bra \t$L_around;\n$1\n$L_around:',
      /an instruction of all lanes that some do not reach/u,
    ],
    [
      'a fence before what is stored',
      /(cp\.async\.wait_group \d;\n)((?:(?!cp\.async\.wait_group)[^])*?)(\tfence\.proxy\.async\.shared::cta;)/gu,
      '$1$3\n$2',
      /product without fence\.proxy\.async/u,
      true,
    ],
    [
      'a fence behind the barrier',
      /(\tfence\.proxy\.async\.shared::cta;)([^;]*?\tbar\.sync[ \t]+0;)/gu,
      '$2\n$1',
      /product behind a barrier to which copies or stores came without/u,
      true,
    ],
  ])(
    'finds %s',
    (_, pattern, put, found, byWarpgroups) => {
      const copy = mkdtempSync(join(tmpdir(), 'lgdistill-ptx-'));
      try {
        let changes = 0;
        for (const name of readdirSync(ptx).filter((one) => one.endsWith('.ptx'))) {
          const text = readFileSync(join(ptx, name), 'utf8');
          const changed = text.replace(pattern, put);
          changes += Number(changed !== text);
          writeFileSync(join(copy, name), changed);
        }
        expect(changes).toBeGreaterThan(0);
        const { status, output } = runProgram(
          join(folder, 'cuda_ops'),
          byWarpgroups ? ['small', 'every=50', 'conv'] : ['small', 'every=20'],
          { LGDISTILL_EMULATION_PTX: copy, LGDISTILL_WGMMA: byWarpgroups ? '1' : '0' },
        );
        expect(output).toMatch(found);
        expect(status).not.toBe(0);
      } finally {
        rmSync(copy, { recursive: true });
      }
    },
    900_000,
  );

  it.each([
    [
      'cuda_semantic',
      'native/semantic/bank_update.cu',
      'every thread has read the flag',
      /races in update_kernel\n {2}global memory: .*bank_update\.cu:\d+.*\) what .* read/u,
    ],
    ['cuda_semantic', 'native/semantic/products_f16.cuh', '', /races in .*\n {2}byte \d+ of shared memory/u],
    ['cuda_augment', 'native/augment/augment.cu', '', /races in .*\n {2}byte \d+ of shared memory/u],
  ])(
    'finds a barrier that is left out: %s, %s',
    (program, file, beside, found) => {
      const { status, output } = runProgram(join(folder, program), [], {
        LGDISTILL_EMULATION_PTX: ptx,
        LGDISTILL_EMULATION_RACES: '1',
        LGDISTILL_EMULATION_WITHOUT: barrierAt(file, beside),
      });
      expect(output).toMatch(found);
      expect(status).not.toBe(0);
    },
    900_000,
  );

  it('has no races in the kernels that no program calls, by their own tests', () => {
    const files = ['classifier', 'detection-loss', 'feature-loss', 'semantic-head', 'semantic-stream'].map(
      (name) => `test/native/${name}.test.ts`,
    );
    // these two take the check longest
    const { status, output } = runTests([...files, '--testNamePattern', '^(?!.*(paper_size|many_classes))'], {
      LGDISTILL_TEST_DEVICES: 'cuda-emulated',
      LGDISTILL_EMULATION_PTX: ptx,
      LGDISTILL_EMULATION_RACES: '1',
      LGDISTILL_EMULATION_ORDER: 'reverse',
    });
    expect(output).toMatch(/Tests .*[1-9]\d+ passed/u);
    expect(status).toBe(0);
  }, 900_000);

  const small = { student: 'mobilenet_v3_small', resolution: 64, batch: 8 };
  let counted: ReturnType<typeof countLaunches> | undefined;
  const launchesOfSmall = async () =>
    (counted ??= countLaunches(addon, ptx, { ...small, registers: await makeRegisters(ptx, '90a') }));

  it('has fused steps that move the bytes they are meant to, in whole sectors and without bank conflicts in products', async () => {
    const { batch } = small;
    const rows = sumByName(await launchesOfSmall());
    const sgd = rows.find(({ name }) => name === 'sgd_kernel')!;
    // bytes a parameter: value, gradient and momentum in float32 read, two written, the bfloat16 copy
    expect((sgd.read + sgd.written) / 1_850_208).toBeCloseTo(22, 0);
    // 4.96; without fusion 7.98, with norms fused to their activations alone 6.93
    const megabytes = bytesOf(rows) / batch / 1e6;
    expect(megabytes).toBeLessThan(5.1);
    expect(megabytes).toBeGreaterThan(4.5);
    // past level-2 cache 4.65
    const beyond =
      rows.filter(({ name }) => name !== 'sgd_kernel').reduce((sum, row) => sum + row.beyond, 0) / batch / 1e6;
    expect(beyond).toBeLessThan(0.95 * megabytes); // kernels begin where the one before ended
    expect(beyond).toBeGreaterThan(0.8 * megabytes);

    expect(excess(rows, 'shared', /^matrix_kernel<bf16/u)).toBeLessThan(1.02);
    expect(excess(rows, 'shared', /^pointwise_kernel/u)).toBeLessThan(1.4);
    expect(excess(rows, 'global', /StoreStatistics|ReachTarget/u)).toBeLessThan(1.1);

    const fused = rows.filter(({ name }) => /^matrix_kernel<bf16.*(?:StoreStatistics|ReachTarget)/u.test(name));
    // with their epilogues unrolled up to 36.5 kB
    const code = fused.map((row) => Object.values(row.longest).reduce((sum, bytes) => sum + bytes, 0));
    expect(fused.length).toBeGreaterThan(1);
    expect(Math.max(...code)).toBeLessThan(30_000);
    expect(Math.min(...code)).toBeGreaterThan(10_000);
    for (const { code: all, launches, longest } of rows)
      expect(all / launches).toBeLessThanOrEqual(Object.values(longest).reduce((sum, bytes) => sum + bytes, 0));
  }, 900_000);

  // The model of test/native/emulation/ptx/clock.h, which scripts/kernels/clock.mjs prints.
  it('has a clock by which kernels take as long as memory and issue ask for, and longer where fewer blocks run at once', async () => {
    const multiprocessors = multiprocessorsFor(small);
    const registers = await makeRegisters(ptx, '90a');
    const crowded = join(mkdtempSync(join(tmpdir(), 'lgdistill-registers-')), 'registers');
    writeFileSync(crowded, readFileSync(registers, 'utf8').replaceAll(/ \d+$/gmu, ' 255'));
    const cyclesOf = (
      all: ReturnType<typeof countLaunches>,
    ): {
      name: string;
      symbol: string;
      grid: number[];
      cycles: number;
      blocks: number;
      resident: number;
      memory: number;
      issue: number;
    }[] =>
      all.map(({ kernel, symbol, grid, cycles, blocks, resident, read, written, slots }) => ({
        name: kernel,
        symbol,
        grid,
        cycles,
        blocks,
        resident,
        // what one multiprocessor gets at most, and what all get
        memory: (read + written) / Math.min(multiprocessors * 64, (2.7e12 / 1.755e9) * (multiprocessors / 132)),
        issue:
          Object.values(slots as Record<string, number>).reduce((sum, count) => sum + count, 0) / 4 / multiprocessors,
      }));
    const launches = cyclesOf(await launchesOfSmall());
    const least = launches.map(({ memory, issue }) => Math.max(memory, issue));
    // Of products and depthwise kernels there are no more blocks than run at once, so that none begins when the others
    // end: but for more groups of channels, or tiles of a weight, than that.
    const fewestBlocks = ({ symbol, grid }: { symbol: string; grid: number[] }): number =>
      symbol.includes('StorePartial') ? grid[0]! * grid[1]! : grid[1]!;
    const stay = launches.filter(
      (launch) =>
        /^(?:kernel|\((?:forward|backward)_kernel<T, R, S>\))$/u.test(launch.name) &&
        fewestBlocks(launch) <= launch.resident * multiprocessors,
    );
    expect(stay.length).toBeGreaterThan(50);
    expect(stay.filter(({ blocks, resident }) => blocks > resident)).toEqual([]);
    const sum = (numbers: number[]): number => numbers.reduce((all, number) => all + number, 0);
    expect(launches.filter(({ cycles }, i) => cycles < 0.8 * least[i]!)).toEqual([]);
    const ratio = sum(launches.map(({ cycles }) => cycles)) / sum(least);
    expect(ratio).toBeGreaterThan(1.1);
    expect(ratio).toBeLessThan(4);
    expect(
      sum(cyclesOf(countLaunches(addon, ptx, { ...small, registers: crowded })).map(({ cycles }) => cycles)),
    ).toBeGreaterThan(1.1 * sum(launches.map(({ cycles }) => cycles)));
  }, 900_000);

  it('has a clock that is near what was measured on an H100', async () => {
    const rows = await calibrate(join(folder, 'clock'));
    expect(rows).toHaveLength(9);
    const speedup = rows.map(({ measured, modelled, unit }) =>
      unit === 'us' ? measured / modelled : modelled / measured,
    );
    for (const [i, { name }] of rows.entries()) {
      const [least, most] = name.startsWith('8192') ? [0.8, 1.1] : i === rows.length - 1 ? [0.9, 2] : [0.95, 1.3];
      expect(speedup[i], name).toBeGreaterThan(least!);
      expect(speedup[i], name).toBeLessThan(most!);
    }
  }, 900_000);

  it('has a teacher that stores what it must and no more, and whose products hardly wait for the residual that they add', async () => {
    const batch = 8;
    const launches = countLaunches(addon, ptx, {
      student: 'clip_rn50',
      resolution: 64,
      batch,
      registers: await makeRegisters(ptx, '90a'),
    });
    const rows = sumByName(launches).filter(({ name }) => !name.includes('fold')); // weights are folded once
    // with folded norms and no more 66, of them plain 192
    expect(rows.reduce((sum, row) => sum + row.launches, 0)).toBe(59);
    const megabytes = bytesOf(rows) / batch / 1e6; // 14.21, most of it weights, which eight images share; plain 24.44
    expect(megabytes).toBeLessThan(14.4);
    expect(megabytes).toBeGreaterThan(13);
    expect(excess(rows, 'shared', /^matrix_kernel<bf16/u)).toBeLessThan(1.01);
    expect(excess(rows, 'global', /^matrix_kernel<bf16/u)).toBeLessThan(1.02);

    const means = launches.filter(({ symbol }) => symbol.includes('StoreMean'));
    expect(means).toHaveLength(7);
    const adding = means.filter((_, i) => i % 2 === 1); // the stem's, then of each stage's last block and of the next
    const waits = (of: (name: string) => boolean): number =>
      adding
        .flatMap((launch) => Object.entries(launch.waits as Record<string, number>))
        .reduce((sum, [name, cycles]) => sum + (of(name) ? cycles : 0), 0);
    expect(waits((name) => name === 'memory') / waits(() => true)).toBeLessThan(0.2); // not sent for ahead, 0.58
  }, 900_000);
});
