import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const release = join(root, 'build-emulated', 'Release');

/** Builds the addon whose CUDA device runs on the host, as far as its sources changed since the last time, and returns its path (for LGDISTILL_ADDON). */
export function buildEmulatedAddon(): string {
  execFileSync(process.execPath, [join(root, 'scripts/build.mjs'), '--only', 'native', '--with', 'emulated'], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(release, 'lgdistill.node');
}

/** Links a test program with the emulated build's objects (all but the binding) and returns its path. */
export function linkWithEmulation(...sources: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'lgd-emulated-'));
  const program = join(folder, 'program');
  const objects = readdirSync(release).filter((name) => name.endsWith('.o') && !name.startsWith('native_binding_')).map((name) => join(release, name));
  const compiler = process.env['CXX'] ?? 'g++';
  execFileSync(compiler, ['-std=gnu++20', '-O2', '-g1', '-pthread', '-DLGD_WITH_CUDA=1', '-I', join(root, 'test/native/emulation'), '-I', join(root, 'native'),
    ...sources.map((source) => join(root, source)), ...objects, '-o', program], { stdio: ['ignore', 'ignore', 'inherit'] });
  return program;
}

/** Runs a program and returns what it printed and its exit status. */
export function runProgram(program: string, args: string[], env: Record<string, string> = {}): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', env: { ...process.env, ...env }, maxBuffer: 1 << 26 });
  return { status, output: `${stdout}${stderr}` };
}
