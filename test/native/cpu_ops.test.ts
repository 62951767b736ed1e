import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const native = join(root, 'native');
const flags = [
  '-O2',
  '-std=gnu++20',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-ffp-contract=fast',
  '-Wall',
  '-Wextra',
  '-Werror',
];

/** Instruction sets that native/core/simd.cpp would choose from on this processor. */
function instructionSets(): string[] {
  const found = ['baseline'];
  let cpu = '';
  try {
    cpu = readFileSync('/proc/cpuinfo', 'utf8').match(/^flags\s*:(.*)$/m)?.[1] ?? '';
  } catch {
    return found;
  }
  const has = (...names: string[]): boolean => names.every((name) => ` ${cpu} `.includes(` ${name} `));
  if (has('avx2', 'fma')) found.push('avx2');
  if (found.length === 2 && has('avx512f', 'avx512bw', 'avx512dq', 'avx512vl')) found.push('avx512');
  return found;
}

async function sources(folder: string, pattern: RegExp): Promise<string[]> {
  return (await readdir(folder)).filter((name) => pattern.test(name)).map((name) => join(folder, name));
}

describe('CPU operations against float64 loops', () => {
  let folder = '';
  let program = '';

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lgdistill-cpu-ops-'));
    program = join(folder, 'cpu_ops');
    const checks = join(root, 'test/native/cpu_ops');
    const files = [
      ...(await sources(join(native, 'ops'), /_cpu\.cpp$/)),
      ...(await sources(join(native, 'optimizer'), /_cpu\.cpp$/)),
      ...(await sources(join(native, 'core'), /^(?!engine_).*\.cpp$/)), // engine_core.cpp is engine.h's side of it
      ...(await sources(checks, /\.cpp$/)),
    ];
    const compiler = process.env['CXX'] ?? 'g++';
    const objects = files.map((_, index) => join(folder, `${index}.o`));
    const queue = files.map((file, index) => ({ file, object: objects[index] ?? '' }));
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        await run(compiler, [...flags, `-I${native}`, `-I${checks}`, '-c', next.file, '-o', next.object]);
      }
    };
    await Promise.all([worker(), worker()]);
    await run(compiler, ['-o', program, ...objects, '-pthread']);
  }, 300_000);

  afterAll(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  for (const isa of instructionSets()) {
    it(`agrees on ${isa}`, async () => {
      const failed = (error: { stdout?: string }): { stdout: string } => ({
        stdout: `${error.stdout ?? ''}\n(failed)`,
      });
      const { stdout } = await run(program, [], { env: { ...process.env, LGDISTILL_ISA: isa } }).catch(failed);
      expect(stdout).toMatch(new RegExp(`^${isa}: [1-9]\\d{3,} checks, 0 failures\\s*$`));
    });
  }
});
