import { spawnSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { runProgram } from '../native/emulated.js';
import { noteSkip } from '../shared.js';
import type { Row } from './gpu-check-fixture.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = temporaryFolder();

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

  it.skipIf(python === undefined)('measures what it can where torchvision is absent', async () => {
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
  });

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
  );

  it.skipIf(python === undefined)('gives up what takes longer than all of its time', async () => {
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
  });
});
