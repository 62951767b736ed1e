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

/** Command lines with a flag that does nothing there, and why. */
const needless: [line: string, said: string][] = [
  ['names --builtin coco --overwrite', 'a built-in list is printed'],
  ['names --builtin coco --templates none', 'a built-in list is printed'],
  ['names --builtin coco --write x.txt', 'a built-in list is printed'],
  ['names --list-builtin --config nowhere.json', 'a built-in list is printed'],
  ['names coco --overwrite', 'nothing is written'],
  ['names coco --templates none', 'no encoder embeds the names'],
  ['bank build --to b.safetensors --embeddings e.safetensors --teacher t', 'embeddings are given'],
  ['bank build --to b.safetensors --names coco --text-encoder e --teacher t', 'a text encoder is given'],
  ['pack --verify a.pack --labels none', 'a pack is verified'],
  ['pack --verify a.pack --max-broken-share 0', 'a pack is verified'],
  ['bench --teacher-resolution 224', 'there is no teacher'],
  ['bench --teacher t --dimension 64', 'a teacher tells the size'],
  ['verify --teacher t --dimension 64', 'a teacher tells the size'],
  ['verify --method text --queue-size 16', 'a method has no queue'],
  ['verify --method feature --student-temperature 1', 'the method is feature'],
  ['report runs/x --no-models --device cpu', 'no model computes'],
];

/** In commands that train and evaluate. */
const told: [line: string, said: string][] = [
  ['distill --finetune-epochs 3', 'a student is distilled'],
  ['distill --evaluate.output x', 'a student is distilled'],
  ['distill --evaluate.every-epochs 2', 'there is nothing to evaluate on'],
  ['distill --evaluate x --evaluate.train y', 'no protocol learns'],
  ['distill --evaluate x --neighbours 5', 'no neighbours vote'],
  ['distill --evaluate x --evaluate.train y --also knn --solver sgd', 'no linear classifier is fitted'],
  [
    'distill --bank b.safetensors --templates none',
    'a text bank is given, which has its names embedded, but for those',
  ],
  ['distill --method feature --templates none', 'there are no names, but for those given to its report'],
  ['distill --method seed --alpha 0.3', 'a method has one bank, or none'],
  ['distill --method text --loss.momentum 0.3', 'a method has no visual bank'],
  ['distill --method lgd --queue-size 16', 'a method has no queue'],
  ['distill --method feature --teacher-temperature 1', 'the method is feature'],
  ['distill --jitter-probability 0 --hue 0.2', 'augment.jitterProbability is 0'],
  ['distill --blur-probability 0 --blur-sigma-max 3', 'augment.blurProbability is 0'],
  ['evaluate --student s --train x', 'the protocol is not knn, linear, semi or finetune'],
  ['evaluate linear --student s --neighbours 5', 'the protocol is not knn'],
  ['evaluate knn --student s --solver sgd', 'the protocol is not linear'],
  ['evaluate finetune --student s --label-share 0.5', 'the protocol is not semi'],
  ['evaluate knn --student s --margin 2', 'the protocol is not semi or finetune'],
  ['evaluate knn --student s --seed 2', 'the protocol is not linear, semi or finetune'],
  ['evaluate linear --student s --teacher t', 'the protocol is not zeroshot or knn'],
  ['evaluate linear --student s --mapping m.json', 'the protocol is not zeroshot'],
  ['evaluate --student s --evaluate.bank b --names coco', 'evaluate.bank has the names'],
  ['evaluate --student s --bank b --templates none', 'a text bank is given'],
  ['evaluate --student s --templates none', 'no names are given and the student has its own'],
  ['classify x --student s --templates none', 'no names are given and the student has its own'],
  ['evaluate linear --student s --teacher-resolution 64', 'the protocol is not zeroshot or knn'],
  ['evaluate --student s --teacher-resolution 64', 'there is no teacher'],
  ['segment train --student s --to x --dense.epochs 3 --dense.max-steps 2', 'dense.maxSteps says how long'],
  ['segment evaluate --model m --data x --dense.evaluation-data y', 'dense.evaluationData says what to evaluate on'],
  [
    'detect evaluate --model m --data x --annotations y --dense.evaluation-annotations z',
    'dense.evaluationAnnotations has the boxes',
  ],
  ['segment zero-shot --student s --data x --bank b --evaluate.bank c', 'evaluate.bank has the texts'],
];

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
  [
    "the run's own report in the place of event files",
    () => ['report', at('run'), '--tensorboard', at('run', 'report.html')],
    2,
    'tensorboard: is the file of the report',
  ],
  ['no images for a report', () => ['report', at('images'), '--images', ''], 2, 'images: '],
  ['nearness without embeddings', () => ['names', at('names.txt'), '--similarity', '0.9'], 2, 'similarity: '],
  ['two lists', () => ['names', '--builtin', 'coco', '--list-builtin'], 2, 'listBuiltin: '],
  ...(
    [
      [() => [...segment(), '--output', at('other')], 'output: is given by two names: --to '],
      [() => [...detect(), `--output=${at('other')}`], 'output: is given by two names: --to '],
      [
        () => ['evaluate', '--student', 's', '--out', 'a', '--output', 'b'],
        'output: is given by two names: --out a and --output b.',
      ],
      [
        () => ['distill', '--batch-size', '4', '--seed', '1', '--train.batchSize', '8'],
        'train.batchSize: is given by two names: --batch-size 4 and --train.batch-size 8.',
      ],
      [() => ['distill', '--data.margin', '1', '--margin=2'], 'data.margin: is given by two names'],
      [
        () => ['distill', '--evaluate.online', '--no-online'],
        'evaluate.online: is given by two names: --evaluate.online true and --online false.',
      ],
      [() => ['distill', '--cache-memory', 'auto', '--data.cache-memory', '1'], 'data.cacheMemory: is given by two'],
      [
        () => ['distill', '--decay-norm-and-bias', '--train.decay-norm-and-bias', 'false'],
        'train.decayNormAndBias: is given by two names',
      ],
    ] satisfies [() => string[], string][]
  ).map(([args, said]): [string, () => string[], number, string] => [`two names: ${said}`, args, 2, said]),
  ...needless.map(([line, said]): [string, () => string[], number, string] => [
    line,
    () => line.split(' '),
    2,
    ` has no use where ${said}`,
  ]),
  ['no encoder', () => ['names', at('names.txt'), '--encoder', ''], 2, 'encoder: '],
  ['no file to write', () => ['names', at('names.txt'), '--write', ''], 2, 'write: '],
])('refused: %s', async (_, args, code, said) => {
  const result = await lgdistill(args());
  expect(result.stderr).toContain(said);
  expect(result.code).toBe(code);
  expect(existsSync(out)).toBe(false);
});

test.each(told)('told of: %s', async (line, said) => {
  const { stderr } = await lgdistill(line.split(' ')); // which lacks something else
  expect(stderr).toMatch(/^note: \S+ has no use where .*\nerror /u);
  expect(stderr).toContain(` has no use where ${said}`);
});

test.each([
  ['distill --teacher-cache.file v.lgd', 'teacherCache.file: holds nothing where no views come back'],
  ['distill --evaluate.names coco', 'evaluate.names: needs a folder to evaluate on'],
  ['distill --method feature --student-temperature 1', 'data.train: is needed'], // its exports have a use for it
])('not told of: %s', async (line, said) => {
  expect((await lgdistill(line.split(' '))).stderr).toMatch(new RegExp(`^error \\w+\n  ${said}`, 'u'));
});

test('an option may be given twice with one value, and by one name the last counts', async () => {
  const args = ['--offline', '--names', '["--output"]', '--names', 'coco', '--output', 'x', '--output', at('images')];
  for (const more of [
    ['--teacher', at('a')],
    ['--out', at('images'), '--teacher', at('b'), '--teacher', at('a')],
  ])
    expect((await lgdistill(['evaluate', '--student', at('nowhere'), ...args, ...more])).stderr).toContain(
      `there is no student in ${at('nowhere')}`,
    );
});

test.each<string[][]>([
  [['--alpha', '.5', '--loss.alpha', '0.5']],
  [['--loss.queue-size', '64', '--queueSize', '6.4e1']],
  [['--online', '--no-online']],
  [['--evaluate.online', '--no-evaluate.online']],
])('a value in two spellings is one, and a switch and its negation are one name: %j', async (flags) => {
  const args = ['distill', '--output', at('images', 'out'), '--data', at('images'), ...flags];
  expect((await lgdistill(args)).stderr).toContain('teacher: is needed');
});

test('a file of options may hold what a command has no use for', async () => {
  writeFileSync(at('options.json'), '{"templates": "none", "evaluate": {"solver": "sgd"}}');
  expect(await lgdistill(['names', 'coco', '--config', at('options.json')])).toMatchObject({ code: 0, stderr: '' });
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

  test("does not replace a model's config.json", async () => {
    copyFileSync(join(tinyClip, 'config.json'), at('model.json'));
    const { code, stderr } = await init(at('model.json'), '--names', '["cat", "dog"]');
    expect(stderr).toContain('no configuration of this package');
    expect(code).toBe(2);
    expect(readFileSync(at('model.json'))).toEqual(readFileSync(join(tinyClip, 'config.json')));
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

test('a long path is said in part without splitting a sign', async () => {
  // 150 units from either end fall into the pair, or between a letter and its mark
  for (const sign of ['\u{1F408}', 'e\u0301', '\u{1F469}\u200D\u{1F52C}']) {
    for (let i = 0; i < sign.length; i++) {
      const { stderr } = await lgdistill(['names', `${'x'.repeat(i)}${sign.repeat(500)}`]);
      expect(stderr).toContain('[...]');
      const [before, after] = stderr.split('[...]') as [string, string];
      expect(before.endsWith(sign)).toBe(true);
      expect(after.startsWith(sign)).toBe(true);
    }
  }
});

test('the folder of a network has the name that errors give it', async () => {
  const { code, stderr } = await lgdistill([
    ...detect().map((word) => (word === '--to' ? '--output' : word)),
    ...boxes(),
  ]);
  expect(stderr).not.toContain('error');
  expect(code).toBe(0);
});
