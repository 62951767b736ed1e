// Leaves out each barrier of the kernels in turn, where their PTX is executed with a check for races, and says which of
// them no check missed: a barrier that nothing needs, or a fault that the checks would not see.
//   node scripts/kernels/barriers.mjs [part of a path] [--every N]     N: take one check of cuda_ops in N (7), all
//     where those miss nothing. About fifteen minutes of one core for all.
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { makePtx } from './ptx.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const {
  values: { every },
  positionals: [wanted = ''],
} = parseArgs({ options: { every: { type: 'string', default: '7' } }, allowPositionals: true });
execFileSync(
  process.execPath,
  [join(root, 'scripts/build.mjs'), '--only', 'native', '--with', 'emulated', '--programs'],
  { stdio: ['ignore', 'ignore', 'inherit'] },
);

const env = { ...process.env, LGDISTILL_EMULATION_PTX: await makePtx(), LGDISTILL_EMULATION_RACES: '1' };

const files = readdirSync(join(root, 'native'), { recursive: true })
  .map((name) => `native/${name}`)
  .filter((name) => /\.cuh?$/u.test(name) && name.includes(wanted))
  .sort();
const barriers = files.flatMap((file) =>
  readFileSync(join(root, file), 'utf8')
    .split('\n')
    .flatMap((line, i) => (/^[^/]*__sync(threads|warp)\(\)/u.test(line) ? [{ file, line: i + 1 }] : [])),
);
const programs = [
  ['native/semantic/', ['cuda_semantic']],
  ['native/augment/', ['cuda_augment']],
  ['', ['cuda_ops', 'small', `every=${every}`]],
];

const built = join(root, 'build-emulated/Release');
const tests = ['classifier', 'detection-loss', 'feature-loss', 'semantic-stream'].map(
  (name) => `test/native/${name}.test.ts`,
);

/**
 * Runs the file's program without the barrier; where that misses nothing, all its checks, or the tests of kernels that
 * are in no program.
 */
function runWithout(file, line) {
  const without = {
    ...env,
    LGDISTILL_EMULATION_WITHOUT: `${basename(file)}:${line}`,
    LGDISTILL_EMULATED_ADDON: join(built, 'lgdistill.node'),
    LGDISTILL_TEST_DEVICES: 'cuda-emulated',
    NO_COLOR: '1',
  };
  const run = (command, args) =>
    spawnSync(command, args, { cwd: root, env: without, encoding: 'utf8', maxBuffer: 1 << 28 });
  const [program, ...args] = programs.find(([folder]) => file.startsWith(folder))[1];
  const result = run(join(built, program), args);
  if (result.status !== 0 || program === 'cuda_augment') return result;
  return program === 'cuda_ops'
    ? run(join(built, program), ['small'])
    : run(process.execPath, [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--bail=1', ...tests]);
}

let unmissed = 0;
for (const { file, line } of barriers) {
  const { status, stdout, stderr } = runWithout(file, line);
  const [race] = /^ {2}.*$/mu.exec(`${stdout}${stderr}`.split('races in ').slice(1).join('\n')) ?? [];
  if (status === 0) unmissed++;
  console.log(`${file}:${line} ${status === 0 ? 'IS MISSED BY NOTHING' : `found: ${race?.trim() ?? 'wrong results'}`}`);
}
console.log(`barriers: ${barriers.length}, ${unmissed} missed by nothing`);
