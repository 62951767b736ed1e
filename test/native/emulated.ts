import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makePtx } from '../../scripts/kernels/ptx.mjs';
import { cudaTool } from '../../scripts/sources.mjs';
import { noteSkip } from '../shared.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

function build(args: string[], env: Record<string, string> = {}): void {
  execFileSync(process.execPath, [join(root, 'scripts/build.mjs'), '--only', 'native', '--with', 'emulated', ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/**
 * Builds the addon whose CUDA device runs on the host, as far as its sources changed since the last time, and returns
 * its path.
 */
export function buildEmulatedAddon(): string {
  build([]);
  return join(root, 'build-emulated', 'Release', 'lgdistill.node');
}

/**
 * Builds the programs of scripts/sources.mjs that run CUDA kernels without Node, those with AddressSanitizer where PTX
 * is executed if it is named; returns their folder.
 */
export function buildEmulatedPrograms(sanitizer?: 'address'): string {
  build(['--programs'], sanitizer === undefined ? {} : { LGDISTILL_SANITIZE: sanitizer });
  return join(root, sanitizer === undefined ? 'build-emulated' : `build-emulated-${sanitizer}`, 'Release');
}

/**
 * A value of $LGDISTILL_EMULATION_PTX by which the emulated GPU executes what an H100 executes, in two thirds of the
 * time that the host compiler's code takes: the one that is given, else PTX made here. Where there is no nvcc to make
 * it, that is told, and '' is that code.
 */
export async function ptxForSpeed(what: string): Promise<string> {
  const given = process.env['LGDISTILL_EMULATION_PTX'];
  if (given !== undefined) return given;
  if (cudaTool('nvcc') !== undefined) return makePtx('90a');
  noteSkip(`${what} by the kernels' PTX`, 'there is no nvcc to make it');
  return '';
}

/** The same for this process, from now on, and for those that it starts. */
export async function executePtx(what: string): Promise<void> {
  process.env['LGDISTILL_EMULATION_PTX'] = await ptxForSpeed(what);
}

/** A barrier of a file, the first whose line has this text, as $LGDISTILL_EMULATION_WITHOUT names it. */
export function barrierAt(file: string, text: string): string {
  const line = readFileSync(join(root, file), 'utf8')
    .split('\n')
    .findIndex((one) => /__sync(threads|warp)\(\)/u.test(one) && one.includes(text));
  if (line < 0) throw new Error(`no barrier beside '${text}' in ${file}`);
  return `${basename(file)}:${line + 1}`;
}

/** Runs a program and returns what it printed and its exit status. */
export function runProgram(
  program: string,
  args: string[],
  env: Record<string, string> = {},
): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
  });
  return { status, output: `${stdout}${stderr}` };
}

/**
 * Runs test files (and options of vitest) in a process of their own, with these variables, and returns what was printed
 * and the exit status.
 */
export function runTests(args: string[], env: Record<string, string>): { status: number | null; output: string } {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST')));
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'node_modules/vitest/vitest.mjs'), 'run', ...args],
    {
      cwd: root,
      encoding: 'utf8',
      env: { ...inherited, NO_COLOR: '1', ...env },
      maxBuffer: 1 << 26,
    },
  );
  return { status, output: `${stdout}${stderr}` };
}
