import { expect, test } from 'vitest';
import { readCode } from '../../scripts/kernels/code.mjs';
import { judge, nameKernels, readPtx, readPtxas } from '../../scripts/kernels/report.mjs';

const clean = '_ZN3lgd6matrix13matrix_kernelI13__nv_bfloat16EEvPT_';
const spilled = '_ZN3lgd12other_kernelEv';
const ptxas = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '${clean}' for 'sm_90a'
ptxas info    : Function properties for ${clean}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 238 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function '${spilled}' for 'sm_90a'
ptxas info    : Function properties for ${spilled}
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
`;
const ptx = `.visible .entry ${clean}(
	.param .u64 a
)
{
	ld.param.u64 %rd1, [a];
	griddepcontrol.launch_dependents;
	griddepcontrol.wait;
	cp.async.cg.shared.global [%r1], [%rd1], 16;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1}, [%r2];
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};
	ret;
}
.visible .entry ${spilled}()
{
	griddepcontrol.wait;
	ret;
}
`;

const names = nameKernels([clean, spilled]);
const bodies = readPtx(ptx);
const kernels = readPtxas(ptxas).map((kernel) => ({
  ...kernel,
  source: 'native/ops/conv.cu',
  name: names.get(kernel.symbol),
  ptx: bodies.get(kernel.symbol),
}));
const rule = {
  source: /conv\.cu$/u,
  kernel: /^matrix_kernel<bf16/u,
  needs: { 'mma.sync': /mma\.sync/u, ldmatrix: /ldmatrix/u },
};

test('reads what ptxas says', () => {
  expect(kernels).toMatchObject([
    { name: 'matrix_kernel<bf16>', architecture: '90a', registers: 238, shared: 1024, stack: 0, spills: 0 },
    { name: 'other_kernel', registers: 255, shared: 0, stack: 8, spills: 40 },
  ]);
});

test('spills are a fault', () => {
  expect(judge(kernels, { wanted: [rule] }).faults).toEqual([
    expect.stringContaining('other_kernel for sm_90a keeps 8 bytes in local memory and spills 40'),
  ]);
});

/** What ptxas writes, with these kernels' code. */
function cubinOf(code: Record<string, Buffer>): Buffer {
  const names = `\0.shstrtab\0.nv.info\0${Object.keys(code)
    .map((symbol) => `.text.${symbol}\0`)
    .join('')}`;
  const contents: [name: string, bytes: Buffer][] = [
    ['.nv.info', Buffer.alloc(64)],
    ['.shstrtab', Buffer.from(names, 'latin1')],
    ...Object.entries(code).map(([symbol, bytes]) => [`.text.${symbol}`, bytes] as [string, Buffer]),
  ];
  const header = Buffer.alloc(0x40);
  const table = Buffer.alloc(64 * contents.length);
  let end = header.length;
  for (const [i, [name, { length }]] of contents.entries()) {
    table.writeUInt32LE(names.indexOf(`\0${name}\0`) + 1, 64 * i);
    table.writeBigUInt64LE(BigInt(end), 64 * i + 0x18);
    table.writeBigUInt64LE(BigInt(length), 64 * i + 0x20);
    end += length;
  }
  header.writeBigUInt64LE(BigInt(end), 0x28);
  header.writeUInt16LE(64, 0x3a);
  header.writeUInt16LE(contents.length, 0x3c);
  header.writeUInt16LE(1, 0x3e);
  return Buffer.concat([header, ...contents.map(([, bytes]) => bytes), table]);
}
/** Instructions of 16 bytes with these numbers. */
function instructions(...numbers: number[]): Buffer {
  const code = Buffer.alloc(16 * numbers.length);
  for (const [i, number] of numbers.entries()) code.writeUInt16LE(number | 0x7000, 16 * i); // 0x7000: no predicate
  return code;
}

test('reads how much machine code kernels have, and whether memory waits in it', () => {
  // as nvcc 13.0 makes them: a constant and S2R before PREEXIT and ACQBULK, LDG and STG behind them
  const [argument, index, go, wait, load, store] = [0xb82, 0x919, 0x82d, 0x82e, 0x981, 0x986];
  const cubin = cubinOf({
    good: instructions(argument, index, go, wait, load, store),
    early: instructions(argument, load, go, wait, store),
    past: instructions(go, 0x94d, wait, load),
    none: instructions(argument, go),
  });
  expect(Object.fromEntries(readCode(cubin))).toEqual({
    good: { bytes: 96, start: '', copies: 0 },
    early: { bytes: 80, start: 'instruction 1 of its code, 0x181, stands before the wait', copies: 0 },
    past: { bytes: 64, start: 'instruction 1 of its code, 0x14d, stands before the wait', copies: 0 },
    none: { bytes: 32, start: 'its code has no wait', copies: 0 },
  });
});

test('a copy whose size is not known to be all or nothing is a fault', () => {
  // LDGSTS as nvcc 13.0 makes it for 90a: of 16 bytes, of 16 or none, of any number; and that for 120
  const words = [0x000fe8000b901c44n, 0x000fe8000c101c44n, 0x000fe80008141c44n, 0x000fe800081c1c44n];
  const code = Buffer.alloc(16 * words.length);
  for (const [i, high] of words.entries()) {
    code.writeBigUInt64LE(0x0000000002057faen, 16 * i);
    code.writeBigUInt64LE(high, 16 * i + 8);
  }
  const { copies } = readCode(cubinOf({ one: code })).get('one')!;
  expect(copies).toBe(2);
  const judged = (count: number) => judge([{ ...kernels[0]!, copies: count }], { wanted: [rule] }).faults;
  expect(judged(0)).toEqual([]);
  expect(judged(2)).toEqual([expect.stringContaining('has 2 cp.async of a size that is not 0 or 16 for certain')]);
});

test('too much machine code is a fault unless named, and only as far as named', () => {
  const judged = (change: object) => judge([{ ...kernels[0]!, ...change }], { wanted: [rule] });
  expect(judged({ code: 80 << 10 })).toEqual({ faults: [], notes: [] });
  expect(judged({ code: 90 << 10 }).faults).toEqual([
    expect.stringContaining('matrix_kernel<bf16> for sm_90a has 90 KiB of machine code, more than 80'),
  ]);
  const checking = { source: 'native/semantic/bank_softmax.cu', name: 'bank_softmax_kernel<float>' };
  const about = (code: number) => judge([kernels[0]!, { ...kernels[0]!, ...checking, code }], { wanted: [rule] });
  expect(about(90 << 10)).toEqual({ faults: [], notes: [expect.stringContaining('90 KiB of machine code: float32')] });
  expect(about(97 << 10).faults).toEqual([expect.stringContaining('more than 96')]);
});

test('a tensor-core kernel without its instructions is a fault, and so is a rule that fits nothing', () => {
  const without = kernels.slice(0, 1).map((kernel) => ({ ...kernel, ptx: kernel.ptx!.replace('mma.sync', 'fma') }));
  expect(judge(without, { wanted: [rule] }).faults).toEqual([
    expect.stringContaining('matrix_kernel<bf16> for sm_90a has no mma.sync'),
  ]);
  expect(judge(kernels.slice(0, 1), { wanted: [{ ...rule, kernel: /^renamed/u }] }).faults).toEqual([
    expect.stringContaining('no kernel'),
  ]);
});

test('a kernel waits for those before it first of all, where it can', () => {
  const [one] = kernels;
  const faults = (change: Partial<NonNullable<typeof one>> & { start?: string }) =>
    judge([{ ...one!, ...change }], { wanted: [rule] }).faults;
  expect(faults({ start: '' })).toEqual([]);
  expect(faults({ start: 'its code has no wait' })).toEqual([
    expect.stringContaining('does not begin with wait_for_inputs(), by ptxas: its code has no wait'),
  ]);
  expect(faults({ ptx: one!.ptx!.replace('griddepcontrol.wait', 'nop') })).toEqual([
    expect.stringContaining('matrix_kernel<bf16> for sm_90a does not begin with wait_for_inputs()'),
  ]);
  for (const early of [
    'ld.global.f32 %f1, [%rd1];',
    '@%p1 bra $L__BB0_2;',
    '$L__BB0_1:',
    'bar.sync 0;',
    'cp.async.wait_all;',
    'prefetch.global.L2 [%rd1];',
    'exit;',
    'call.uni helper, (%r1);',
    'ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1}, [%r2];',
    'ld.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];',
  ]) {
    expect(
      faults({ ptx: one!.ptx!.replace('\tgriddepcontrol.wait', `\t${early}\n\tgriddepcontrol.wait`) }),
    ).toHaveLength(1);
  }
  expect(
    faults({
      ptx: one!.ptx!.replace(
        '\tgriddepcontrol.wait',
        '\tadd.s32 %r1, %r2, 1; // an index\n\t.loc 1 2 3\n\tgriddepcontrol.wait',
      ),
    }),
  ).toEqual([]);
  // no such launches there
  for (const architecture of ['80', '120'])
    expect(
      faults({
        architecture,
        ptx: one!.ptx!.replaceAll(/griddepcontrol\.\w+/gu, 'nop'),
        start: 'its code has no wait',
      }),
    ).toEqual([]);
});

test('a load past the order of memory is a fault', () => {
  const [one] = kernels;
  for (const architecture of ['80', '90a'])
    expect(
      judge([{ ...one!, architecture, ptx: `${one!.ptx}ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];` }], {
        wanted: [rule],
      }).faults,
    ).toEqual([expect.stringContaining('loads by ld.global.nc')]);
});

test('wgmma may stand in for mma.sync and ldmatrix', () => {
  const swapped = { ...kernels[0]!, ptx: 'cp.async.bulk.tensor wgmma.mma_async.sync.aligned' };
  expect(judge([swapped]).faults.filter((fault) => fault.includes('has no'))).toEqual([]);
});

test('products of a warpgroup that ptxas serializes are a fault', () => {
  const said = `ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function '${clean}'\n`;
  const [one, other] = readPtxas(said + ptxas);
  expect(other!.waits).toBe('');
  expect(judge([{ ...kernels[0]!, ...one! }], { wanted: [rule] }).faults).toEqual([
    expect.stringContaining(
      'matrix_kernel<bf16> for sm_90a, by ptxas: Potential Performance Loss: wgmma.mma_async instructions are serialized',
    ),
  ]);
  expect(
    readPtxas(
      `ptxas info    : (C7517) warpgroup.wait is injected in around line 61 by compiler to allow use of registers defined by GMMA in function '${spilled}'\n${ptxas}`,
    )[1]!.waits,
  ).toContain('is injected');
});

test('a vector that was split in shared memory is a fault', () => {
  const whole = {
    ...kernels[0]!,
    ptx: `${kernels[0]!.ptx}st.shared.v4.u32 [%r1], {%r1, %r2, %r3, %r4};\nst.shared.v2.f32 [%r1], {%f1, %f2};`,
  };
  expect(judge([whole], { wanted: [rule] }).faults).toEqual([]);
  for (const access of ['st.shared.u32 [%r1], %r2;', 'ld.shared.v2.u32 {%r1, %r2}, [%r3];']) {
    expect(judge([{ ...whole, ptx: `${whole.ptx}${access}` }], { wanted: [rule] }).faults).toEqual([
      expect.stringContaining('matrix_kernel<bf16> for sm_90a splits vectors'),
    ]);
  }
});

test('static shared memory beside a dynamic one is a fault unless named, and only as far as named', () => {
  const [one] = kernels;
  const dynamic = { ...one!, ptx: `${one!.ptx}mov.u32 %r1, _ZN3lgd6matrix16lgd_shared_bytesE;` };
  expect(judge([dynamic], { wanted: [rule] }).faults).toEqual([
    expect.stringContaining('has 1024 bytes of static shared memory beside its dynamic one'),
  ]);
  const pool = {
    ...dynamic,
    source: 'native/ops/max_pool.cu',
    name: 'max_pool_backward_kernel<bf16, 3>',
    shared: 4096,
  };
  expect(judge([pool], { wanted: [] }).faults).toEqual([]);
  expect(judge([{ ...pool, shared: 4112 }], { wanted: [] }).faults).toHaveLength(1);
});
