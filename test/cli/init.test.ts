import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { loadConfigFile, mergeConfig } from '../../lib/config/config.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';
import { noteSkip } from '../shared.js';
import { ensureBuilt } from './built.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
let runs = 0;
let here: string;

beforeAll(async () => void (await drawShapes(join(folder, 'shapes'), { count: 5, size: 32 })));
beforeEach(() => {
  here = join(folder, `work-${runs++}`);
  mkdirSync(here);
  writeFileSync(join(here, 'names.txt'), shapeNames.join('\n'));
  spawnSync('cp', ['-r', join(folder, 'shapes'), join(here, 'photos')]);
  mkdirSync(join(here, 'empty'));
  vi.spyOn(process, 'cwd').mockReturnValue(here);
});

const all = () => [
  '--names',
  join(here, 'names.txt'),
  '--data',
  join(here, 'photos'),
  '--teacher',
  tinyClip,
  '--student',
  'mobilenet_v3_small',
  '--to',
  join(here, 'first.json'),
];

test('options answer, and the file is one that distill takes', async () => {
  const { code, stdout } = await lgdistill(['init', ...all()]);
  expect(code).toBe(0);
  expect(stdout).toContain('20 images: batches of 16)');
  expect(stdout.trimEnd().split('\n').at(-1)).toBe(`next: npx lgdistill distill --config ${join(here, 'first.json')}`);
  const config = mergeConfig(await loadConfigFile(join(here, 'first.json')), {});
  expect(config).toMatchObject({
    names: join(here, 'names.txt'),
    teacher: tinyClip,
    data: { train: join(here, 'photos') },
    student: { name: 'mobilenet_v3_small' },
    train: { batchSize: 'auto', learningRate: 'auto', epochs: 200 },
  });
  const trained = await lgdistill([
    'distill',
    '--config',
    join(here, 'first.json'),
    '--output',
    join(here, 'run'),
    '--epochs',
    '1',
    '--device',
    'cpu',
    '--templates',
    'none',
    '--json',
  ]);
  expect([trained.code, trained.documents().at(-1)]).toEqual([0, expect.objectContaining({ type: 'done', step: 1 })]);
});

test('the command to type next has a path with blanks in quotes', async () => {
  mkdirSync(join(here, 'my runs'));
  const file = join(here, 'my runs', 'first.json');
  const { code, stdout } = await lgdistill(['init', ...all(), '--to', file]);
  expect(code).toBe(0);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe(`next: npx lgdistill distill --config '${file}'`);
});

test('several students with commas give the file that distill trains side by side', async () => {
  const students = ['--student', 'mobilenet_v3_small, mobilenet_v2'];
  const { code, stdout } = await lgdistill(['init', '--yes', ...all(), ...students]);
  expect([code, stdout]).toEqual([
    0,
    expect.stringContaining('2.5 M and 3.5 M parameters with a classifier of 1,000 classes, trained side by side'),
  ]);
  expect(JSON.parse(readFileSync(join(here, 'first.json'), 'utf8'))).toMatchObject({
    student: { name: 'mobilenet_v3_small,mobilenet_v2' },
    output: 'runs/mobilenet_v3_small-mobilenet_v2',
  });
  const { code: tried, documents } = await lgdistill([
    'distill',
    '--config',
    join(here, 'first.json'),
    '--output',
    join(here, 'run'),
    '--device',
    'cpu',
    '--templates',
    'none',
    '--dry-run',
    '--json',
  ]);
  expect([tried, documents()]).toEqual([
    0,
    [expect.objectContaining({ type: 'preflight', students: ['mobilenet_v3_small', 'mobilenet_v2'] })],
  ]);
});

test('a file that is there stays, unless told to replace it', async () => {
  writeFileSync(join(here, 'first.json'), '{}');
  const refused = await lgdistill(['init', ...all()]);
  expect([refused.code, readFileSync(join(here, 'first.json'), 'utf8')]).toEqual([2, '{}']);
  expect(refused.stderr).toContain('--force');
  const { code, documents } = await lgdistill(['init', ...all(), '--force', '--json']);
  expect(code).toBe(0);
  expect(documents()).toEqual([
    {
      file: join(here, 'first.json'),
      config: JSON.parse(readFileSync(join(here, 'first.json'), 'utf8')) as unknown,
      remarks: expect.objectContaining({ names: '4 names' }) as unknown,
      next: expect.stringContaining('distill --config') as unknown,
    },
  ]);
});

test('folders on the way to the file are made, and nothing is left of them where an answer is wrong', async () => {
  const file = join(here, 'new', 'runs', 'first.json');
  const refused = await lgdistill(['init', ...all(), '--to', file, '--student', 'mobilnet_v2']);
  expect([refused.code, existsSync(join(here, 'new'))]).toEqual([2, false]);
  const { code } = await lgdistill(['init', ...all(), '--to', file]);
  expect([code, JSON.parse(readFileSync(file, 'utf8'))]).toEqual([0, expect.objectContaining({ teacher: tinyClip })]);
});

test.each([
  ['below a file', 'names.txt/first.json', 'NOT_WRITABLE'],
  ['that is a folder', 'empty', 'BAD_CONFIG'],
])('a place %s is refused before anything is asked', async (_, to, error) => {
  // the first question would fail, for want of a terminal
  const { code, stderr } = await lgdistill(['init', '--to', join(here, to), '--force']);
  expect([code, stderr.split('\n')[0]]).toEqual([error === 'BAD_CONFIG' ? 2 : 1, `error ${error}`]);
});

test('a teacher may be a checkpoint by a file that names it, as where a file system has no links', async () => {
  const checkpoints = join(here, 'taught', 'checkpoints');
  mkdirSync(join(checkpoints, 'step-00000001'), { recursive: true });
  writeFileSync(join(checkpoints, 'best'), 'step-00000001\n');
  const args = ['init', ...all(), '--to', join(here, 'taught.json')];
  const { code, stdout, stderr } = await lgdistill([...args, '--teacher', join(checkpoints, 'best')]);
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toContain('a folder on this machine');
});

test('without a terminal, nothing is asked and what is missing is said', async () => {
  const { code, stderr } = await lgdistill(['init', ...all().slice(2)]);
  expect([code, stderr.split('\n')[0]]).toEqual([2, 'error BAD_OPTION']);
  expect(stderr).toContain('--yes');
});

test.each([
  ['--student', 'mobilnet_v2', 'Did you mean mobilenet_v2?'],
  ['--student', 'resnet18,mobilnet_v2', 'Did you mean mobilenet_v2?'],
  ['--student', 'resnet18,resnet18', 'each student is named once'],
  ['--names', 'coc', 'Did you mean the built-in list coco?'],
  ['--data', '/nowhere', 'there is no folder /nowhere'],
  ['--teacher', 'clip', 'Check the path, or take Xenova/clip-vit-base-patch32'],
])('a wrong %s is refused with what to do', async (flag, value, message) => {
  const { stderr, code } = await lgdistill(['init', ...all(), flag, value]);
  expect(code).toBeGreaterThan(0);
  expect(stderr).toContain(message);
});

test('on a terminal, suggestions come from the folder, wrong answers are asked again, and Tab completes', async () => {
  if (spawnSync('script', ['--version']).status !== 0)
    return noteSkip('init on a terminal', "util-linux's script, which makes one, is absent");
  const root = await ensureBuilt();
  const child = spawn('script', ['-qec', `${process.execPath} ${join(root, 'dist/cli/main.js')} init`, '/dev/null'], {
    cwd: here,
    env: { ...process.env, CI: '', TERM: 'xterm' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let shown = '';
  child.stdout.on('data', (part: Buffer) => (shown += part.toString()));
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  onTestFinished(() => void child.kill());
  const answer = async (prompt: string, text: string) => {
    await vi.waitFor(() => expect(shown).toContain(prompt), { timeout: 200_000, interval: 20 });
    shown = '';
    child.stdin.write(text);
  };
  await answer('[names.txt]: ', '\r');
  await answer('[photos]: ', 'empty\r');
  await answer('no images in empty', '\r');
  await answer('[Xenova/clip-vit-base-patch32]: ', '\r');
  await answer('[mobilenet_v2]: ', 'mobilenet_v3_l\t');
  await answer('arge', '\r');
  expect(await ended).toBe(0);
  expect(shown).toContain('npx lgdistill distill --config lgdistill.json');
  expect(JSON.parse(readFileSync(join(here, 'lgdistill.json'), 'utf8'))).toMatchObject({
    names: 'names.txt',
    data: { train: 'photos' },
    teacher: 'Xenova/clip-vit-base-patch32',
    student: { name: 'mobilenet_v3_large' },
  });
});
