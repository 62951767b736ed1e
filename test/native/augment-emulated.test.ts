import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = temporaryFolder();

it('gives the same views from the CUDA source, run on the host, as from the CPU', async () => {
  const native = join(root, 'native');
  const checks = join(root, 'test/native/augment_emulated');
  const augment = (await readdir(join(native, 'augment'))).filter((name) => /\.(cpp|cu)$/.test(name)).map((name) => join(native, 'augment', name));
  const core = ['device.cpp', 'simd.cpp', 'thread_pool.cpp'].map((name) => join(native, 'core', name));
  const files = [...augment, ...core, join(checks, 'main.cpp')];
  const compiler = process.env['CXX'] ?? 'g++';
  const flags = ['-std=gnu++20', '-O1', '-Wall', '-Wextra', '-Werror', '-DLGD_WITH_CUDA=1', `-I${checks}`, `-I${native}`];
  const objects = files.map((_, i) => join(folder, `${i}.o`));
  const compile = async (first: number): Promise<void> => {
    for (let i = first; i < files.length; i += 2) await run(compiler, [...flags, '-c', '-x', 'c++', files[i]!, '-o', objects[i]!]);
  };
  await Promise.all([compile(0), compile(1)]);
  const program = join(folder, 'augment_emulated');
  await run(compiler, [...objects, '-o', program, '-pthread']);
  const failed = (error: { stdout?: string }): { stdout: string } => ({ stdout: `${error.stdout ?? ''}\n(failed)` });
  const { stdout } = await run(program).catch(failed);
  expect(stdout).toMatch(/^288 checks, 0 failures\s*$/);
}, 300_000);
