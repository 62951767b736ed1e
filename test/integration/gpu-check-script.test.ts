/**
 * scripts/gpu-check on a machine with a GPU, whose programs others stand in for here: what it asks of them, and in which
 * order.
 */
import { spawnSync } from 'node:child_process';
import { copyFile, cp, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { runProgram } from '../native/emulated.js';
import { writeProgram, type Row } from './gpu-check-fixture.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const script = join(root, 'scripts', 'gpu-check');
const folder = temporaryFolder();

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
