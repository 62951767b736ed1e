import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { ensureBuilt } from '../cli/built.js';
import { isWanted } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { runToEnd } from '../gpu/programs.js';
import { withEnvironment } from '../gpu/report.js';
import { buildEmulatedPrograms, ptxForSpeed, runProgram } from '../native/emulated.js';
import { writeProgram, type Row } from './gpu-check-fixture.js';

// scripts/gpu-check runs where no test does, so the script itself is tested here: on the emulated GPU it must pass, and
// say so of every part; and where something is wrong it must fail.
const script = fileURLToPath(new URL('../../scripts/gpu-check', import.meta.url));
const folder = temporaryFolder();

async function dryRun(
  name: string,
  parts: string,
  env: Record<string, string> = {},
): Promise<{ status: number | null; output: string; rows: Row[] }> {
  const results = join(folder, name);
  const result = runProgram(script, ['dry-run'], {
    GPU_CHECK_PARTS: parts,
    GPU_CHECK_RESULTS: results,
    LGDISTILL_EMULATION_PTX: await ptxForSpeed('gpu-check'),
    ...env,
  });
  const lines = (await readFile(join(results, 'gpu-check.jsonl'), 'utf8')).trim().split('\n');
  return { ...result, rows: lines.map((line) => JSON.parse(line) as Row) };
}

/** A golden case as the published ones are written, with its gradient times a factor. */
async function writeGolden(file: string, factor: number): Promise<void> {
  const [B, D, K] = [3, 8, 4];
  const [student, teacher, textual, visual] = [1, 2, 3, 4].map((seed) =>
    randomNormal((seed < 3 ? B : K) * D, seed),
  ) as [Float32Array, Float32Array, Float32Array, Float32Array];
  const options = { studentTemperature: 0.2, teacherTemperature: 0.01, alpha: 0.5 };
  const loss = await bankLoss({ student, teacher, textual, visual, dimension: D, ...options }, { device: 'js' });
  const update = await bankUpdate(
    { teacher, textual, visual, seen: new Uint8Array(K), dimension: D, momentum: 0.9 },
    { device: 'js' },
  );
  const tensors: Record<string, ArrayLike<number>> = {
    tsb: textual,
    vsb_before: visual,
    seen_before: new Uint8Array(K),
    'step0.student_raw': student,
    'step0.teacher_raw': teacher,
    'step0.loss': [loss.loss],
    'step0.loss_visual': [loss.lossVisual],
    'step0.loss_textual': [loss.lossTextual],
    'step0.kl_visual': [loss.klVisual],
    'step0.kl_textual': [loss.klTextual],
    'step0.grad_student_raw': loss.gradient.map((value) => factor * value),
    'step0.assignment': update.assignment,
    'step0.vsb_after': update.visual,
    'step0.seen_after': update.seen,
  };
  await writeSafetensors(
    file,
    Object.entries(tensors).map(([name, data]) => [name, { shape: [data.length], data: Float32Array.from(data) }]),
    {
      D: String(D),
      K: String(K),
      steps: '1',
      momentum: '0.9',
      alpha: '0.5',
      student_temperature: '0.2',
      teacher_temperature: '0.01',
    },
  );
}

describe.skipIf(!isWanted('cuda-emulated', 'the script of checks on a GPU'))('gpu-check on the emulated GPU', () => {
  it('passes, with rows of every part', async () => {
    const { status, output, rows } = await dryRun('whole', 'ops semantic augment networks training kernels');
    expect(rows.filter(({ good }) => good === false)).toEqual([]);
    expect(output).toMatch(/gpu-check: [1-9]\d+ checks, 0 failed/);
    expect(output).toMatch(/kernels: 0 failed/);
    expect(status).toBe(0);
    const counts = Object.fromEntries(
      ['ops', 'semantic', 'augment', 'networks', 'training', 'kernels'].map((part) => [
        part,
        rows.filter((row) => row.part === part).length,
      ]),
    );
    // one of the four programs also tells what it skips
    expect(counts).toMatchObject({ ops: 5, augment: 3, networks: 19, training: 34 });
    expect(counts['semantic']).toBeGreaterThanOrEqual(22); // more where the shared folder is
    expect(counts['kernels']).toBeGreaterThan(100);
    expect(output).toContain('| conv_norm_forward 3x3 64 -> 64 @56 (resnet18) |');
  }, 600_000);

  it('measures steps by both kinds of products, and runs the demo as it is packed', async () => {
    await ensureBuilt();
    const programs = join(folder, 'passing');
    await mkdir(programs);
    for (const name of ['cuda_ops', 'kernels']) await writeProgram(join(programs, name), 'echo 1 checks, 0 failed');
    const { status, output, rows } = await dryRun('steps-results', 'steps products demo', {
      GPU_CHECK_PROGRAMS: programs,
    });
    for (const precision of ['bfloat16', 'float32'])
      expect(output).toMatch(new RegExp(`demo, short, ${precision}: student [\\d.]+ %, teacher 7[5-8]\\.\\d %`, 'u'));
    expect(rows.filter(({ good }) => good === false)).toEqual([]);
    expect(
      rows
        .filter(({ part }) => part === 'steps')
        .map(({ what, products, launches }) => [what, products, launches].join(' | ')),
    ).toEqual(
      ['', ', wgmma'].flatMap((suffix) =>
        ['whole step', 'student alone', 'teacher alone'].map(
          (what) => `${what}${suffix} | ${suffix === '' ? 'mma.sync' : 'wgmma'} | serialized`,
        ),
      ),
    );
    expect(status).toBe(0);
  }, 600_000);

  it('fails where a program fails, where the sanitizer finds something, and where a number is not the golden one', async () => {
    const programs = join(folder, 'programs');
    const vectors = join(folder, 'shared', 'vectors', 'semantic');
    for (const path of [programs, vectors]) await mkdir(path, { recursive: true });
    for (const name of ['cuda_ops', 'cuda_augment', 'cuda_semantic', 'kernels'])
      await writeProgram(join(programs, name), 'echo FAIL conv_forward\necho 9 checks, 1 failed\nexit 1');
    const sanitizer = join(folder, 'sanitizer');
    // What cuda_ops does under memcheck where a check faults: it says what it would go on with, and its status is the
    // tool's own. Augmentation is not looked into at all. Events that are asked about too early are no fault.
    await writeProgram(
      sanitizer,
      `echo ========= ERROR SUMMARY: 1 error
case "$*" in
  *memcheck*cuda_ops*from=7) echo went on;;
  *memcheck*cuda_ops*) echo "========= Invalid __global__ write of size 4 bytes"; echo "LOST conv_forward; go on with from=7"; exit 99;;
  *cuda_augment*) echo "========= Error: Device not supported"; exit 1;;
  *memcheck*--report-api-errors\\ no*) ;;
  *memcheck*cuda_semantic*) echo "========= Program hit cudaErrorNotReady (error 600) on CUDA API call to cudaEventQuery."; exit 99;;
esac`,
    );
    await writeGolden(join(vectors, 'right.safetensors'), 1);
    await writeGolden(join(vectors, 'wrong.safetensors'), 1.02);
    const { status, output, rows } = await dryRun('broken', 'ops sanitize semantic kernels', {
      GPU_CHECK_PROGRAMS: programs,
      GPU_CHECK_SANITIZER: sanitizer,
      LGDISTILL_SHARED: join(folder, 'shared'),
    });
    expect(status).toBe(1);
    expect(output).toMatch(/FAILED: semantic\n[^]*FAILED: kernels\n/);
    const failed = (part: string) =>
      rows.filter((row) => row.part === part && row.good === false).map(({ name }) => name);
    expect(failed('ops')).toEqual([
      'cuda_ops',
      'cuda_ops',
      'cuda_augment',
      'cuda_augment',
      'cuda_semantic',
      'cuda_semantic',
      'cuda_streams',
    ]);
    expect(failed('sanitize').sort()).toEqual([
      'cuda_ops under memcheck, one check in 5',
      'cuda_streams',
      'cuda_streams',
    ]);
    expect(
      rows.find(({ name, good }) => name === 'cuda_ops under memcheck, one check in 5' && good === false),
    ).toMatchObject({
      value: expect.stringMatching(
        /ERROR SUMMARY[^]*LOST conv_forward[^]*ERROR SUMMARY[^]*Invalid __global__ write/u,
      ) as string,
    });
    expect(output).toMatch(/SKIPPED cuda_augment under memcheck: compute-sanitizer does not support this GPU/u);
    expect(
      rows
        .filter(({ part, value }) => part === 'sanitize' && value === 'device not supported: not run')
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['cuda_augment under memcheck', 'cuda_augment under racecheck']);
    expect(failed('semantic')).toEqual(['golden published wrong float32', 'golden published wrong bfloat16']);
    expect(rows.some(({ name, good }) => name === 'golden published right float32' && good)).toBe(true);
  }, 600_000);

  it('goes on behind a check that takes the GPU too long', async () => {
    // a second and more of emulation, in float32 as well
    const { lines, starts, status } = await runToEnd(
      join(buildEmulatedPrograms(), 'cuda_ops'),
      ['seconds=0.1', 'conv_forward 16x28x28x256'],
      100,
    );
    expect(lines).toEqual([
      expect.stringMatching(/^LOST conv_forward .*: it takes longer than 0\.1 s; go on with from=1 checks=1 failed=1$/),
      expect.stringMatching(/^cuda operations: 2 checks, 1 failed; /), // the model of tensor cores is one, too
    ]);
    expect({ starts, status }).toEqual({ starts: 2, status: 1 });
  }, 600_000);

  it('names the kernel at fault, by a check that lost the GPU run again with each launch waited for', async () => {
    const program = join(buildEmulatedPrograms(), 'cuda_ops');
    const fault = { LGDISTILL_EMULATION_FAULT: 'cudaLaunchKernel:1:cudaErrorIllegalAddress' };
    const { lines, starts } = await withEnvironment(fault, () => runToEnd(program, ['small', 'norm_fold'], 100));
    const words = 'an illegal memory access was encountered (cudaErrorIllegalAddress)';
    expect(lines).toEqual([
      expect.stringMatching(/^FAIL norm_fold .*Synchronize failed: an illegal memory access/u),
      expect.stringMatching(/^LOST norm_fold /u),
      expect.stringContaining(
        `NAMED with each launch waited for: launching fold_kernel = _Z11fold_kernel failed: ${words}`,
      ),
      expect.stringMatching(/^cuda operations: \d+ checks, \d+ failed/u),
    ]);
    expect(starts).toBe(2);
  }, 600_000);

  it('goes on in another process behind a check that takes the GPU from its own', async () => {
    const { status, output, rows } = await dryRun('lost', 'semantic', {
      LGDISTILL_EMULATION_FAULT: 'cudaLaunchKernel:20:cudaErrorIllegalAddress', // in every process anew
    });
    expect(status).toBe(1);
    const names = rows.filter(({ part }) => part === 'semantic').map(({ name }) => name);
    const failed = rows.filter(({ good }) => good === false);
    expect(failed.length).toBeGreaterThan(1);
    const again = ', each launch waited for';
    for (const { name, value } of failed)
      if (!name.endsWith(again)) {
        expect(value).toContain('cudaErrorIllegalAddress');
        expect(output).toContain(`this process has lost the GPU; another goes on behind ${name}\n`);
      }
    expect(new Set(names).size).toBe(names.length); // each once
    const [named] = rows.filter(({ name }) => name.endsWith(again));
    expect(named).toMatchObject({
      name: `${failed[0]!.name}${again}`,
      good: false,
      value: expect.stringMatching(/launching kernel = _Z6kernel failed: an illegal memory access/u) as string,
    });
    expect(names.length).toBeGreaterThanOrEqual(22);
  }, 600_000);

  it('stops a part that takes too long, with all it started, and runs the others', async () => {
    const programs = join(folder, 'slow');
    await mkdir(programs);
    await writeProgram(
      join(programs, 'cuda_ops'),
      `echo FAIL one of its checks\nsleep 900 &\necho $! >${join(programs, 'pid')}\nwait`,
    );
    await writeProgram(join(programs, 'kernels'), 'echo 1 checks, 0 failed'); // at once, on any machine
    const { status, output, rows } = await dryRun('slow-results', 'ops kernels', {
      GPU_CHECK_PROGRAMS: programs,
      GPU_CHECK_PART_SECONDS: '15',
    });
    expect(status).toBe(1);
    expect(output).toMatch(/FAILED: ops, the whole part: stopped: longer than 15 s\nops: \d+ s\n/);
    expect(rows.filter(({ good }) => good === false)).toMatchObject([
      { part: 'ops', name: 'cuda_ops', value: 'FAIL one of its checks' },
      { part: 'ops', name: 'cuda_ops', value: 'stopped in it' },
      { part: 'ops', name: 'the whole part', value: 'stopped: longer than 15 s' },
    ]);
    expect(rows.filter(({ part, good }) => part === 'kernels' && good)).toHaveLength(1);
    const state = await readFile(`/proc/${(await readFile(join(programs, 'pid'), 'utf8')).trim()}/stat`, 'utf8').catch(
      () => '',
    );
    expect(state).not.toMatch(/\) [RSD] /);
  }, 600_000);

  it('begins nothing when the time of all parts is over, and keeps the rows of a run that was killed', async () => {
    await mkdir(join(folder, 'no-time'));
    await writeFile(
      join(folder, 'no-time', 'running.jsonl'),
      '{"run":{"date":"2026-01-02","card":"another"}}\n{"part":"augment","name":"recipe","value":"1e-3","good":true}\n{"part":"aug',
    );
    const {
      status,
      rows: [kept, ...rows],
    } = await dryRun('no-time', 'semantic augment', { GPU_CHECK_SECONDS: '0' });
    expect(status).toBe(1);
    expect(kept).toEqual({
      date: '2026-01-02',
      card: 'another',
      note: 'killed',
      part: 'augment',
      name: 'recipe',
      value: '1e-3',
      good: true,
    });
    expect(rows.map(({ part, value }) => `${part}: ${value}`)).toEqual(
      ['trial', 'semantic', 'augment'].map((part) => `${part}: not run: the 0 s of all parts are over`),
    );
  }, 600_000);

  it('refuses a part that is none', () => {
    const { status, output } = runProgram(script, ['dry-run'], { GPU_CHECK_PARTS: 'kernel' });
    expect(output).toContain('no part kernel; there are: ops sanitize');
    expect(status).toBe(2);
  });
});
