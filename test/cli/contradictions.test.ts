import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { writeConfigFile } from '../../lib/config/init.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { oneStepTrainings } from '../fixtures/scenes.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';
import { lgdistill } from './program.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const out = at('out');
const sized = ['--dense.resolution', '64', '--dense.batch-size', '2', '--dense.max-steps', '1', '--device', 'cpu'];
const detect = () => ['detect', 'train', '--student', at('student.safetensors'), '--to', out, ...sized];
const segment = () => ['segment', 'train', '--student', at('student.safetensors'), '--to', out, ...sized];
const boxes = () => ['--data', at('scenes', 'images'), '--annotations', at('boxes.json')];

beforeAll(async () => {
  await oneStepTrainings(folder);
  await drawShapes(at('images'), { count: 2 });
  writeFileSync(at('names.txt'), shapeNames.join('\n'));
  copyFileSync(at('names.txt'), at('kept.txt'));
  writeFileSync(at('names.json'), '{"names": ["cat", "dog"]}');
  mkdirSync(at('empty'));
});

test.each<[string, () => string[], code: number, said: string]>([
  [
    'images to evaluate on without their boxes',
    () => [...detect(), ...boxes(), '--dense.evaluation-data', at('images')],
    2,
    'dense.evaluationAnnotations: is needed',
  ],
  [
    'a part to evaluate on of a folder that is not divided',
    () => [...segment(), '--data', at('scenes'), '--dense.evaluation-split', 'test'],
    1,
    'dense.evaluationSplit: ',
  ],
  [
    'a layout without its folders',
    () => [...segment(), '--data', at('scenes'), '--dense.layout', 'cityscapes'],
    1,
    'dense.data: there is no folder ',
  ],
  [
    'two values by two names',
    () => [...detect(), ...boxes(), '--dense.data', at('images')],
    2,
    'dense.data: is given by its short name, too',
  ],
  [
    'a file as the folder of images',
    () => [...detect(), '--data', at('names.txt'), '--annotations', at('boxes.json')],
    1,
    'dense.data: there is no folder ',
  ],
  ['time without an end', () => ['bench', '--seconds', '1e99'], 2, 'seconds takes a number above 0 and up to 86400'],
  ['images beside steps', () => ['bench', 'device', at('images')], 2, 'sources: '],
  ['banks beside images', () => ['bench', 'data', at('images'), '--categories', '5'], 2, 'categories: '],
  ...(['--student', '--batch-size', '--device', '--offline'] as const).map(
    (flag): [string, () => string[], number, string] => [
      `${flag} beside images`,
      () => ['bench', 'data', at('images'), flag, { '--batch-size': '4', '--device': 'cpu' }[flag as string] ?? 'true'],
      2,
      'has no use where sources are measured',
    ],
  ),
  [
    'views beside steps',
    () => ['bench', '--augment.flip-probability', '0.5'],
    2,
    'augment.flipProbability: has no use where no images are read',
  ],
  [
    'one place for report and event files',
    () => ['report', at('images'), '--output', at('r'), '--tensorboard', at('r')],
    2,
    'tensorboard: is the file of the report',
  ],
  ['no images for a report', () => ['report', at('images'), '--images', ''], 2, 'images: '],
  ['nearness without embeddings', () => ['names', at('names.txt'), '--similarity', '0.9'], 2, 'similarity: '],
  ['two lists', () => ['names', '--builtin', 'coco', '--list-builtin'], 2, 'listBuiltin: '],
  ['no encoder', () => ['names', at('names.txt'), '--encoder', ''], 2, 'encoder: '],
  ['no file to write', () => ['names', at('names.txt'), '--write', ''], 2, 'write: '],
])('refused: %s', async (_, args, code, said) => {
  const result = await lgdistill(args());
  expect(result.stderr).toContain(said);
  expect(result.code).toBe(code);
  expect(existsSync(out)).toBe(false);
});

test('a network is evaluated on the undivided folder it is trained on where that is asked for', async () => {
  const args = ['--data', at('scenes'), '--dense.evaluation-split', 'train'];
  const { code, stderr, stdout } = await lgdistill([
    ...segment().map((word) => (word === out ? at('seen') : word)),
    ...args,
  ]);
  expect(stderr).not.toContain('error');
  expect(stdout).toContain('2 images to evaluate on');
  expect(code).toBe(0);
});

describe('init', () => {
  const init = (to: string, ...more: string[]) =>
    lgdistill(['init', '--yes', '--force', '--data', at('images'), '--teacher', tinyClip, '--to', to, ...more]);

  test.each(['names.txt', 'names.json', 'student.safetensors', 'kept.txt'])('does not replace %s', async (file) => {
    const before = readFileSync(at(file));
    const names = file === 'names.json' ? file : 'names.txt';
    const { code, stderr } = await init(at(file), '--names', at(names));
    expect(stderr).toContain('to: th');
    expect(code).toBe(2);
    expect(readFileSync(at(file)).equals(before)).toBe(true);
  });

  test.each<[option: string, name: (file: string) => ConfigInput]>([
    ['evaluate.names', (file) => ({ evaluate: { names: file } })],
    ['evaluate.mapping', (file) => ({ evaluate: { mapping: file } })],
    ['templates', (file) => ({ templates: file })],
    ['dense.annotations', (file) => ({ dense: { annotations: file } })],
    ['dense.evaluationAnnotations', (file) => ({ dense: { evaluationAnnotations: file } })],
  ])('does not replace %s', async (_, name) => {
    const file = at('names.json');
    const before = readFileSync(file);
    await expect(writeConfigFile(file, name(file), { force: true })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
      message: expect.stringContaining('what it would be made from') as string,
    });
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  test('replaces a configuration, and takes the names themselves', async () => {
    for (const names of ['["cat", "dog"]', '["cat", "cow"]'])
      expect((await init(at('first.json'), '--names', names)).code).toBe(0);
    expect(JSON.parse(readFileSync(at('first.json'), 'utf8'))).toMatchObject({ names: ['cat', 'cow'] });
  });

  test('needs a file to write', async () => {
    const { code, stderr } = await init('', '--names', at('names.txt'));
    expect(stderr).toContain('to: ');
    expect(code).toBe(2);
  });
});

test('a long path is said in part, and in JSON as it is', async () => {
  const path = Array<string>(30).fill('d'.repeat(50)).join('/');
  const { stderr } = await lgdistill(['bench', 'data', path]);
  expect(stderr).toContain('[...]');
  expect(stderr.length).toBeLessThan(1000);
  const written = await lgdistill(['names', at('names.txt'), '--write', 'n'.repeat(300), '--json']);
  const [{ error }] = written.documents() as unknown as [{ error: { code: string; message: string } }];
  expect(error).toMatchObject({ code: 'NOT_WRITABLE', message: expect.stringContaining('n'.repeat(300)) as string });
});

test('the folder of a network has the name that errors give it', async () => {
  const { code, stderr } = await lgdistill([
    ...detect().map((word) => (word === '--to' ? '--output' : word)),
    ...boxes(),
  ]);
  expect(stderr).not.toContain('error');
  expect(code).toBe(0);
});
