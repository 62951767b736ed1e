import { spawnSync } from 'node:child_process';
import { chmod, copyFile, cp, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
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
import { buildEmulatedPrograms, ptxForSpeed, runProgram } from '../native/emulated.js';
import { noteSkip } from '../shared.js';

// scripts/gpu-check runs where no test does, so the script itself is tested here: on the emulated GPU it must pass, and
// say so of every part; and where something is wrong it must fail.
const root = fileURLToPath(new URL('../..', import.meta.url));
const script = join(root, 'scripts', 'gpu-check');
const folder = temporaryFolder();

interface Row {
  part: string;
  name: string;
  good?: boolean;
  value?: string;
  what?: string;
  products?: string;
  launches?: string;
}

async function writeProgram(path: string, text: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
}

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

describe('gpu-check on a machine with a GPU', () => {
  const older = 'echo "A GPU, 550.54.15"';
  it.each<readonly [string, string, Record<string, string>, RegExp]>([
    ['no GPU', 'echo No devices were found\nexit 6', {}, /^nvidia-smi shows no GPU: No devices were found\n$/u],
    [
      'a driver older than the CUDA runtime',
      older,
      {},
      /^A GPU, 550\.54\.15\ndriver 550\.54\.15 is older than 580, .*\n$/u,
    ],
    [
      'nothing from pack, the driver being new',
      'echo "A GPU, 580.65.06"',
      {},
      /^A GPU, 580\.65\.06\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
    [
      'nothing from pack, and more than one GPU, which nvidia-smi asks one after the other',
      'case $* in *compute_cap*) echo 9.0; sleep 0.3; echo 9.0 ;; *) echo "A GPU, 580.65.06"; sleep 0.3; echo "B, 580.65.06" ;; esac',
      {},
      /^A GPU, 580\.65\.06\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
    [
      'nothing from pack, and the second GPU alone to see',
      'case $* in *--id=1*compute_cap*) echo 9.0 ;; *--id=1*) echo "B, 580.65.06" ;; *) echo "A, 550.54.15" ;; esac',
      { CUDA_VISIBLE_DEVICES: '1,0' },
      /^B, 580\.65\.06\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
    [
      'nothing from pack, and one GPU to see, by the beginning of its UUID',
      'case $* in *=uuid*) echo GPU-1111; echo GPU-2222 ;; *--id=GPU-2222*) echo "B, 580.65.06" ;; *--id=*) exit 6 ;; *) echo "A, 550.54.15" ;; esac',
      { CUDA_VISIBLE_DEVICES: 'GPU-22' },
      /^B, 580\.65\.06\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
    [
      'nothing from pack, beside libraries of forward compatibility',
      older,
      { LD_LIBRARY_PATH: `/none:${folder}` },
      /15\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
    [
      'a card that the pack has no code for',
      'case $* in *compute_cap*) echo 8.6 ;; *) echo "A GPU, 580.65.06" ;; esac',
      { PACKED_FOR: '90a;100' },
      /^A GPU, 580\.65\.06\nthis card has compute capability 8\.6, and the pack has code for 90a 100 alone: .*LGD_ARCH=86 /u,
    ],
    ...['80;90a', '86', '80-virtual'].map(
      (archs) =>
        [
          `nothing from pack but what it was made for (${archs})`,
          'case $* in *compute_cap*) echo 8.6 ;; *) echo "A GPU, 580.65.06" ;; esac',
          { PACKED_FOR: archs },
          /06\n\.gpu\/programs\.tar\.xz is not there: /u,
        ] as const,
    ),
    [
      'nothing from pack, where any driver is to do',
      older,
      { GPU_CHECK_ANY_DRIVER: '1' },
      /15\n\.gpu\/programs\.tar\.xz is not there: /u,
    ],
  ])('ends where it has %s', async (_, text, env, said) => {
    const copied = join(folder, 'checkout', 'scripts', 'gpu-check'); // with next to nothing in .gpu beside it
    for (const part of ['scripts', '.gpu']) await mkdir(join(folder, 'checkout', part), { recursive: true });
    await copyFile(script, copied);
    await writeFile(join(folder, 'checkout', '.gpu', 'arch'), `${env['PACKED_FOR'] ?? '90a'}\n`);
    await writeProgram(join(folder, 'nvidia-smi'), text);
    await writeFile(join(folder, 'libcuda.so.1'), '');
    const { status, output } = runProgram(copied, ['run'], {
      PATH: `${folder}:${process.env['PATH']}`,
      LD_LIBRARY_PATH: '',
      GPU_CHECK_ANY_DRIVER: '',
      ...env,
    });
    expect(output).toMatch(said);
    expect(status).toBe(2);
  });

  /** A checkout with a pack of this Node, a shell script, and what pretends to be the driver's program beside it. */
  async function packed(name: string, node: string): Promise<{ home: string; bin: string }> {
    const [home, bin] = [join(folder, name), join(folder, name, 'bin')];
    for (const part of ['scripts', 'bench', '.gpu', 'bin', 'packed'])
      await mkdir(join(home, part), { recursive: true });
    await copyFile(script, join(home, 'scripts', 'gpu-check'));
    await cp(join(root, 'bench', 'results.mjs'), join(home, 'bench', 'results.mjs'));
    await writeProgram(join(bin, 'nvidia-smi'), 'echo "NVIDIA H100 80GB HBM3, 580.65.06"');
    await writeProgram(join(home, 'packed', 'node'), node);
    await writeFile(join(home, 'packed', 'lgdistill.node'), '');
    await writeFile(join(home, '.gpu', 'commit'), 'abc');
    const packing = spawnSync(
      'sh',
      [
        '-c',
        'tar -C packed --owner=4711 --group=4711 -c lgdistill.node | xz >.gpu/programs.tar.xz && xz -c packed/node >.gpu/node.xz',
      ],
      { cwd: home },
    );
    expect(packing.status).toBe(0);
    return { home, bin };
  }

  it('ends where the packed Node does not start', async () => {
    const said = "node: /lib/libc.so.6: version `GLIBC_2.28' not found (required by node)";
    const { home, bin } = await packed('old', `echo "${said.replace('`', '\\`')}" >&2\nexit 1`);
    const { status, output } = runProgram(join(home, 'scripts', 'gpu-check'), ['run'], {
      PATH: `${bin}:${process.env['PATH']}`,
      GPU_CHECK_RESULTS: join(home, 'results'),
    });
    expect(output).toMatch(
      /\nthe packed Node does not start here: node: \/lib\/libc\.so\.6: version .GLIBC_2\.28. not/u,
    );
    expect(status).toBe(2);
  });

  // A pack whose Node only writes down what it is asked for. Python pretends, too.
  async function pretend(
    name: string,
    trial: string,
    env: Record<string, string>,
  ): Promise<{ status: number | null; output: string; asked: string[]; rows: Row[] }> {
    const [asked, results] = [join(folder, name, 'asked'), join(folder, name, 'results')];
    const { home, bin } = await packed(
      name,
      `case $1 in -e) exit 0;; *results.mjs) exec ${process.execPath} "$@";; esac
echo "$GPU_CHECK_PARTS wgmma=$LGDISTILL_WGMMA pdl=$LGDISTILL_PDL$GPU_CHECK_SUFFIX" >>${asked}
[ "$GPU_CHECK_PARTS" != trial ] || echo "${trial}" >"$GPU_CHECK_FEATURES"
echo "{\\"part\\":\\"$GPU_CHECK_PARTS\\",\\"name\\":\\"$GPU_CHECK_SUFFIX\\"}" >>"$GPU_CHECK_ROWS"`,
    );
    await writeProgram(join(bin, 'python'), `[ "$1" = -c ] || echo "python $*" >>${asked}`);
    const unset = { LGDISTILL_WGMMA: '', LGDISTILL_PDL: '', GPU_CHECK_SECONDS: '', GPU_CHECK_STUDENTS: '' };
    const result = runProgram(join(home, 'scripts', 'gpu-check'), ['run'], {
      ...unset,
      PATH: `${bin}:${process.env['PATH']}`,
      PYTHON: join(bin, 'python'),
      GPU_CHECK_RESULTS: results,
      ...env,
    });
    expect((await stat(join(home, '.gpu', 'run', 'lgdistill.node'))).uid).toBe(process.getuid!());
    const rows = (await readFile(join(results, 'gpu-check.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Row);
    return { ...result, asked: (await readFile(asked, 'utf8')).trim().split('\n'), rows };
  }

  it('tries first how the library would run, measures the other products, and says of each row how it ran', async () => {
    const { status, asked, rows } = await pretend('features', 'wgmma programmatic', {
      GPU_CHECK_PARTS: 'networks steps products pytorch',
      GPU_CHECK_STUDENTS: 'resnet18 mobilenet_v2',
    });
    expect(asked[0]).toBe('trial wgmma= pdl=');
    const [compiling, measuring] = asked
      .filter((line) => line.startsWith('python'))
      .map((line) => line.replaceAll(/\S*\/|--compiled \S+ |--rows \S+ /gu, ''));
    expect([compiling, measuring]).toEqual([
      'python pytorch_steps.py --compile-only --seconds 240 --students resnet18,mobilenet_v2',
      'python pytorch_steps.py --seconds 150 --students resnet18,mobilenet_v2',
    ]);
    expect(asked.slice(1).filter((line) => !line.startsWith('python'))).toEqual([
      'networks wgmma=1 pdl=1',
      'steps wgmma=1 pdl=1',
      ...['convolutions', 'kernels', 'steps'].map((part) => `${part} wgmma=0 pdl=1, mma.sync`),
    ]);
    expect(
      rows.map(({ part, name, products, launches }) => [part, name, products, launches].join(' ')).slice(1),
    ).toEqual([
      'networks  wgmma programmatic',
      'steps  wgmma programmatic',
      ...['convolutions', 'kernels', 'steps'].map((part) => `${part} , mma.sync mma.sync programmatic`),
    ]);
    expect(status).toBe(0);
  });

  it('measures no products that failed their trial, and no PyTorch when the time is over, which is no failure', async () => {
    const { status, asked, output, rows } = await pretend('few', 'mma.sync serialized', {
      GPU_CHECK_PARTS: 'steps products pytorch',
      GPU_CHECK_SECONDS: '30',
    });
    expect(asked.slice(1)).toEqual(['steps wgmma=0 pdl=0']);
    expect(output).toMatch(/SKIPPED products: [^]*SKIPPED pytorch: the 30 s of all parts are over/u);
    expect(rows.at(-1)).toMatchObject({ part: 'pytorch', value: 'SKIPPED: the 30 s of all parts are over' });
    expect(status).toBe(0);
  });
});

describe('the comparison with PyTorch', () => {
  const python = ['/usr/bin/python3', 'python3'].find(
    (command) => spawnSync(command, ['-c', 'import torch']).status === 0,
  );
  if (python === undefined) noteSkip('bench/pytorch_steps.py', 'no Python with PyTorch here');
  /** With a torchvision of this text. */
  async function compare(
    name: string,
    torchvision: string,
    args: string[],
  ): Promise<{ status: number | null; lines: string[]; rows: Row[] }> {
    await mkdir(join(folder, name));
    await writeFile(join(folder, name, 'torchvision.py'), `${torchvision}\n`);
    const file = join(folder, name, 'rows.jsonl');
    const { status, output } = runProgram(python!, [join(root, 'bench', 'pytorch_steps.py'), '--rows', file, ...args], {
      PYTHONPATH: join(folder, name),
    });
    return {
      status,
      lines: output.trim().split('\n').slice(1),
      rows: (await readFile(file, 'utf8'))
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Row),
    };
  }

  it.skipIf(python === undefined)(
    'measures what it can where torchvision is absent',
    async () => {
      const { status, lines, rows } = await compare('absent', 'raise ImportError("absent")', ['--small']);
      expect(lines[0]).toBe('NOT MEASURED mobilenet_v2 32 px: whole step: ImportError: absent');
      expect(rows[0]).toEqual({
        part: 'pytorch',
        name: 'mobilenet_v2 32 px: whole step',
        value: 'NOT MEASURED: ImportError: absent',
      });
      expect(rows.at(-1)).toMatchObject({
        part: 'steps',
        framework: 'pytorch',
        what: 'teacher alone',
        student: 'teacher',
      });
      expect(status).toBe(0);
    },
    120_000,
  );

  it.skipIf(python === undefined)(
    'begins nothing that would not end in time, the whole steps of large images first',
    async () => {
      const { status, lines, rows } = await compare('late', '', [
        '--seconds',
        '20',
        '--students',
        'resnet18,mobilenet_v2',
      ]);
      expect(lines.map((line) => line.replace(/: \d+ of 20 s are left, .*$/u, ''))).toEqual([
        ...[224, 64].flatMap((side) => [
          `SKIPPED resnet18 ${side} px: whole step`,
          `SKIPPED mobilenet_v2 ${side} px: whole step`,
        ]),
        'SKIPPED resnet18 224 px: student alone',
        'SKIPPED mobilenet_v2 224 px: student alone',
        'SKIPPED teacher 224 px: teacher alone',
      ]);
      expect(rows).toHaveLength(7);
      expect(
        rows.every(
          ({ part, good, value }) => part === 'pytorch' && good === undefined && value?.startsWith('SKIPPED: '),
        ),
      ).toBe(true);
      expect(status).toBe(0);
    },
    120_000,
  );

  it.skipIf(python === undefined)(
    'gives up what takes longer than all of its time',
    async () => {
      const { status, lines } = await compare('long', 'import time\ntime.sleep(60)', [
        '--small',
        '--seconds',
        '2',
        '--warm',
        '0',
      ]);
      expect(lines[0]).toBe('SKIPPED mobilenet_v2 32 px: whole step: not done when 2 s were over');
      expect(lines[1]).toMatch(/^SKIPPED mobilenet_v2 32 px: student alone: 0 of 2 s are left/u);
      expect(status).toBe(0);
    },
    50_000,
  );
});

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
    // two seconds and more in bfloat16, emulated
    const { lines, starts, status } = await runToEnd(
      join(buildEmulatedPrograms(), 'cuda_ops'),
      ['seconds=1', 'conv_forward 16x28x28x256'],
      100,
    );
    expect(lines).toEqual([
      expect.stringMatching(/^LOST conv_forward .*: it takes longer than 1 s; go on with from=1 checks=[12] failed=1$/),
      expect.stringMatching(/^cuda operations: [12] checks, 1 failed; /),
    ]);
    expect({ starts, status }).toEqual({ starts: 2, status: 1 });
  }, 600_000);

  it('stops a part that takes too long, with all it started, and runs the others', async () => {
    const programs = join(folder, 'slow');
    await mkdir(programs);
    await writeProgram(join(programs, 'cuda_ops'), `sleep 900 &\necho $! >${join(programs, 'pid')}\nwait`);
    const { status, output, rows } = await dryRun('slow-results', 'ops augment', {
      GPU_CHECK_PROGRAMS: programs,
      GPU_CHECK_PART_SECONDS: '10',
    });
    expect(status).toBe(1);
    expect(output).toMatch(/FAILED: ops, the whole part: stopped: longer than 10 s\nops: \d+ s\n/);
    expect(rows.filter(({ good }) => good === false)).toMatchObject([
      { part: 'ops', name: 'the whole part', value: 'stopped: longer than 10 s' },
    ]);
    expect(rows.filter(({ part, good }) => part === 'augment' && good)).toHaveLength(3);
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
  }, 120_000);
});
