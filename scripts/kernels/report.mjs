// Reads what ptxas says and makes of kernels and the PTX it read, and judges them: see `rules` for what is demanded.
import { spawnSync } from 'node:child_process';
import { ptxOf } from '../sources.mjs';

/**
 * Kernels that must have certain instructions: those that multiply on tensor cores from operands that arrive while the
 * ones before are in use, and those that load ahead of their arithmetic. wgmma takes its operands from shared memory
 * itself, so it stands for ldmatrix too.
 */
const tensorCores = {
  'mma.sync': /\bmma\.sync|\bwgmma\.mma_async/u,
  ldmatrix: /\bldmatrix|\bwgmma\.mma_async/u,
  'cp.async': /\bcp\.async/u,
};
const copiesAhead = { 'cp.async': /\bcp\.async/u };
const warpgroups = { wgmma: /\bwgmma\.mma_async/u, 'cp.async': /\bcp\.async/u };
/** Tiles of a warpgroup (ops/matrix_core.cuh): their kernels are empty but for sm_90a. */
const warpgroupTile = /Tile<[^>]*, true>/u;
/** `not`: kernels that it passes over; `only`: the architectures that it holds for. */
/** @typedef {{ source: RegExp, kernel: RegExp, not?: RegExp, only?: string[], needs: Record<string, RegExp> }} Rule */
/** @type {Rule[]} */
export const rules = [
  { source: /ops\/(fused_)?conv\.cu$/u, kernel: /^matrix_kernel<bf16/u, not: warpgroupTile, needs: tensorCores },
  {
    source: /ops\/(fused_)?conv\.cu$/u,
    kernel: /^matrix_kernel<bf16, Tile<[^>]*, true>/u,
    only: ['90a'],
    needs: warpgroups,
  },
  { source: /ops\/(fused_)?conv\.cu$/u, kernel: /^matrix_kernel<float/u, needs: copiesAhead },
  { source: /ops\/pointwise_backward\.cu$/u, kernel: /^pointwise_kernel/u, needs: tensorCores },
  { source: /ops\/excitation\.cu$/u, kernel: /^excitation_\w+<bf16/u, needs: { 'mma.sync': tensorCores['mma.sync'] } },
  {
    source: /ops\/fused_depthwise_(forward|backward)\.cu$/u,
    kernel: /^(forward|backward)_kernel/u,
    needs: copiesAhead,
  },
  { source: /semantic\/products_f16\.cu$/u, kernel: /^(scores|sums)_kernel/u, needs: tensorCores },
  { source: /semantic\/bank_stream\.cu$/u, kernel: /^stream_/u, needs: tensorCores },
];

/**
 * What kernels must not have: accesses of 4 bytes where the source has 16 (nvcc splits those that are not behind
 * load_as and store_as), which meet in the banks.
 */
export const split = [
  { source: /ops\/(fused_)?conv\.cu$/u, kernel: /^matrix_kernel<bf16/u, pattern: /\b(ld|st)\.shared\.(v2\.)?u32\b/u },
];

/**
 * What alone may stand before a kernel waits for those before it (wait_for_inputs() in core/cuda_device.cuh), a line:
 * parameters and arithmetic with them. No other memory, and nothing that could pass the wait by.
 */
const beforeWait =
  /^\s*(?:$|[{}]|\/\/|\.\w|(?:ld\.param|mov|cvta|cvt|add|sub|mul|mad|shl|shr|and|or|setp|selp|griddepcontrol)\b)/u;

/**
 * What is wrong with how a kernel starts, which may be while those before it still run; '' for nothing. Code for less
 * than 9.0 has no wait, and its kernels never start early.
 */
function faultOfStart({ architecture, ptx, start = '' }) {
  const wait = ptx.indexOf('griddepcontrol.wait');
  if (
    Number.parseInt(ptxOf(architecture), 10) >= 90 &&
    (wait < 0 ||
      !ptx
        .slice(ptx.indexOf('{'), wait)
        .split('\n')
        .every((line) => beforeWait.test(line)))
  )
    return 'does not begin with wait_for_inputs()';
  if (Number.parseInt(architecture, 10) === 90 && start !== '')
    return `does not begin with wait_for_inputs(), by ptxas: ${start}`;
  // Such loads are of memory that nothing writes while the kernel is there; but the kernel before may still write it.
  if (/\bld\.global\.nc\b/u.test(ptx))
    return 'loads by ld.global.nc: have no __ldg, and no __restrict__ of what is const';
  return '';
}

/**
 * Kernels with shared memory of both kinds, which count together for what a block may have unasked, and where the host
 * allows for it.
 */
export const both = [
  { source: /ops\/max_pool\.cu$/u, kernel: /^max_pool_backward_kernel/u, bytes: 4096 },
  // it always asks: allow_shared_memory
  { source: /semantic\/bank_update\.cu$/u, kernel: /^update_kernel/u, bytes: 384 },
];

/**
 * ptxas -v to [{ symbol, architecture, registers, shared, stack, spills, waits }]; bytes, spills are stores and loads
 * together. waits: what it says where it lets products of a warpgroup wait, or ''.
 */
export function readPtxas(text) {
  const kernels = [];
  const waits = new Map(
    [...text.matchAll(/\(C75\d\d\) (.*?) in (?:the )?function '([^']+)'/gu)].map(([, words, symbol]) => [
      symbol,
      words,
    ]),
  );
  for (const part of text.split('Compiling entry function ').slice(1)) {
    const [, symbol, architecture] = /^'([^']+)' for 'sm_(\w+)'/u.exec(part);
    const number = (pattern) => Number(pattern.exec(part)?.[1] ?? 0);
    kernels.push({
      symbol,
      architecture,
      registers: number(/Used (\d+) registers/u),
      shared: number(/(\d+) bytes smem/u),
      stack: number(/(\d+) bytes stack frame/u),
      spills: number(/(\d+) bytes spill stores/u) + number(/(\d+) bytes spill loads/u),
      waits: waits.get(symbol) ?? '',
    });
  }
  return kernels;
}

/** The bodies of a PTX file's kernels by symbol. */
export function readPtx(text) {
  return new Map(
    text
      .split(/\.entry\s+/u)
      .slice(1)
      .map((part) => [/^\w+/u.exec(part)[0], part.split('\n}')[0]]),
  );
}

/**
 * C++ names of symbols, without this project's namespaces and without arguments; the symbols themselves where there is
 * no c++filt.
 */
export function nameKernels(symbols) {
  const { status, stdout } = spawnSync('c++filt', { input: symbols.join('\n'), encoding: 'utf8' });
  const names = status === 0 ? stdout.split('\n') : symbols;
  return new Map(symbols.map((symbol, i) => [symbol, shorten(names[i])]));
}

function shorten(name) {
  const plain = name
    .replace(/^void /u, '')
    .replaceAll(/\(anonymous namespace\)::|_GLOBAL__N__\w+::|\b(lgd|matrix|products|loss_cuda|where|read)::/gu, '');
  return plain
    .replaceAll('__nv_bfloat16', 'bf16')
    .replaceAll(/\(([\w:]+)\)(?=-?\d)/gu, '')
    .replace(/\(.*/u, '')
    .replaceAll(/Loader<(\w+), (\w+)<\w+> >/gu, '$1/$2');
}

/**
 * Bytes of machine code that a kernel may have (docs/kernel-costs.md, Code), and kernels that may have more. A
 * multiprocessor keeps 128 KiB of instructions.
 */
const mostCode = 80 << 10;
export const longKernels = [
  {
    source: /semantic\/bank_softmax\.cu$/u,
    kernel: /^bank_softmax_kernel<float/u,
    bytes: 96 << 10,
    why: 'float32 is the mode for checking, and sums in float64',
  },
];

/**
 * What is wrong with kernels: [{ source, name, architecture, stack, spills, waits, code, start, copies,
 *   ptx }].
 * @param {{ wanted?: Rule[] }} [options]
 * @returns lines: faults, none where all is well, and notes on what is let pass. A rule that fits no kernel is a fault
 *   too: it would check nothing.
 */
export function judge(kernels, { wanted = rules } = {}) {
  /** @type {[string[], string[]]} */
  const [faults, notes] = [[], []];
  const fits =
    ({ source, kernel, not, only }) =>
    (one) =>
      source.test(one.source) &&
      kernel.test(one.name) &&
      !(not?.test(one.name) ?? false) &&
      (only?.includes(one.architecture) ?? true);
  for (const one of kernels)
    if (one.stack > 0 || one.spills > 0)
      faults.push(
        `${one.source}: ${one.name} for sm_${one.architecture} keeps ${one.stack} bytes in local memory and spills ${one.spills}`,
      );
  for (const one of kernels) {
    const long = longKernels.find((entry) => fits(entry)(one));
    if (one.code > (long?.bytes ?? mostCode))
      faults.push(
        `${one.source}: ${one.name} for sm_${one.architecture} has ${(one.code / 1024).toFixed(0)} KiB of machine code, more than ${(long?.bytes ?? mostCode) / 1024}: unroll less`,
      );
    else if (one.code > mostCode)
      notes.push(
        `${one.source}: ${one.name} for sm_${one.architecture} has ${(one.code / 1024).toFixed(0)} KiB of machine code: ${long?.why}`,
      );
    // Sums that other code uses while the products are under way: right, since ptxas waits for them first, but slower.
    if (one.waits) faults.push(`${one.source}: ${one.name} for sm_${one.architecture}, by ptxas: ${one.waits}`);
    const start = faultOfStart(one);
    if (start !== '') faults.push(`${one.source}: ${one.name} for sm_${one.architecture} ${start}`);
    if (one.copies > 0)
      faults.push(
        `${one.source}: ${one.name} for sm_${one.architecture} has ${one.copies} cp.async of a size that is not 0 or 16 for certain, whose address must then be one`,
      );
    const pattern = split.find((entry) => fits(entry)(one))?.pattern;
    if (pattern?.test(one.ptx))
      faults.push(
        `${one.source}: ${one.name} for sm_${one.architecture} splits vectors in shared memory: use load_as and store_as`,
      );
    const known = both.find((entry) => fits(entry)(one))?.bytes ?? 0;
    if (one.shared > known && /lgd_shared_bytes/u.test(one.ptx)) {
      faults.push(
        `${one.source}: ${one.name} for sm_${one.architecture} has ${one.shared} bytes of static shared memory beside its dynamic one; count both at the launch, then add it to \`both\` in scripts/kernels/report.mjs`,
      );
    }
  }
  const isAsked = ({ only }) =>
    only?.every((architecture) => !kernels.some((one) => one.architecture === architecture)) !== true;
  for (const rule of wanted.filter(isAsked)) {
    const matching = kernels.filter(fits(rule));
    if (matching.length === 0)
      faults.push(`no kernel of ${rule.source} fits ${rule.kernel}: mend the rule in scripts/kernels/report.mjs`);
    for (const one of matching) {
      for (const [instruction, pattern] of Object.entries(rule.needs)) {
        if (!pattern.test(one.ptx))
          faults.push(`${one.source}: ${one.name} for sm_${one.architecture} has no ${instruction}`);
      }
    }
  }
  return { faults, notes };
}

/** One line a kernel: registers on each architecture, shared memory, spills. */
export function table(kernels) {
  const architectures = [...new Set(kernels.map(({ architecture }) => architecture))];
  const rows = new Map();
  for (const one of kernels) {
    const key = `${one.source.replace(/^native\//u, '')} ${one.name}`;
    const row = rows.get(key) ?? { registers: {}, shared: 0, code: 0, spills: 0 };
    row.registers[one.architecture] = Math.max(row.registers[one.architecture] ?? 0, one.registers);
    row.shared = Math.max(row.shared, one.shared);
    row.code = Math.max(row.code, one.code);
    row.spills = Math.max(row.spills, one.spills);
    rows.set(key, row);
  }
  const line = (name, cells) =>
    `${name.slice(0, 118).padEnd(120)}${cells.map((cell) => String(cell).padStart(8)).join('')}`;
  return [
    line(
      'registers a thread; bytes of static shared memory, of machine code and of spills (the most of all architectures)',
      [...architectures.map((name) => `sm_${name}`), 'shared', 'code', 'spills'],
    ),
    ...[...rows].map(([name, { registers, shared, code, spills }]) =>
      line(name, [...architectures.map((architecture) => registers[architecture] ?? '-'), shared, code, spills]),
    ),
  ].join('\n');
}
