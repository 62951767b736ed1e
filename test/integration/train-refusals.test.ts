import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { type ConfigInput } from '../../lib/config/config.js';
import { LgdError } from '../../lib/errors.js';
import { shapeNames, smallConfig } from '../fixtures/tiny.js';
import { failure, ShapeRuns } from './train-fixture.js';

const { folder, data, labelled, output } = new ShapeRuns();

describe('what is wrong is said before training', () => {
  const wrong: [string, (config: ConfigInput) => ConfigInput | Promise<ConfigInput>, Partial<LgdError>][] = [
    ['no training images', (c) => ({ ...c, data: { margin: 1 } }), { code: 'BAD_CONFIG', option: 'data.train' }],
    ['no teacher', (c) => ({ ...c, teacher: undefined }), { code: 'BAD_CONFIG', option: 'teacher' }],
    [
      'no names',
      (c) => ({ ...c, names: undefined }),
      {
        code: 'BAD_CONFIG',
        option: 'names',
        mend: expect.stringContaining(
          '(--names, or --bank built before); methods seed and feature need none',
        ) as string,
      },
    ],
    ['names twice', (c) => ({ ...c, names: ['circle', 'circle'] }), { code: 'BAD_NAMES' }],
    [
      'a folder that is not there',
      (c) => ({ ...c, data: { train: join(folder, 'nowhere') } }),
      { code: 'FILE_NOT_FOUND' },
    ],
    ['an empty folder', async (c) => ({ ...c, data: { train: await empty() } }), { code: 'BAD_DATASET' }],
    ['a teacher that is not there', (c) => ({ ...c, teacher: join(folder, 'nowhere') }), { code: 'FILE_NOT_FOUND' }],
    [
      'a folder as weights',
      async (c) => ({ ...c, student: { ...c.student, weights: join(await ran(), 'checkpoints', 'best') } }),
      {
        code: 'BAD_FILE',
        option: 'student.weights',
        mend: `Give the file in it: ${join(folder, 'ran', 'checkpoints', 'best', 'model.safetensors')}`,
      },
    ],
    [
      'the folder of a run as weights',
      async (c) => ({ ...c, student: { ...c.student, weights: await ran() } }),
      {
        code: 'BAD_FILE',
        option: 'student.weights',
        mend: `Give the file in it: ${join(folder, 'ran', 'checkpoints', 'best', 'model.safetensors')}`,
      },
    ],
    [
      'an empty folder as weights',
      async (c) => ({ ...c, student: { ...c.student, weights: await empty() } }),
      { code: 'BAD_FILE', option: 'student.weights', mend: 'Give a file of weights' },
    ],
    ['an unknown student', (c) => ({ ...c, student: { name: 'mobilenet_v9' } }), { code: 'BAD_OPTION' }],
    [
      'a width the student has not',
      (c) => ({ ...c, student: { name: 'resnet18', widthMultiplier: 0.5 } }),
      { code: 'BAD_OPTION' },
    ],
    [
      'a batch larger than the data set',
      (c) => ({ ...c, train: { ...c.train, batchSize: 33 } }),
      { code: 'BAD_CONFIG', option: 'train.batchSize', found: 33 },
    ],
    [
      'a batch of one that leaves no variance',
      (c) => ({ ...c, data: { ...c.data, resolution: 32 }, train: { ...c.train, batchSize: 1 } }),
      { code: 'BAD_OPTION', option: 'train.batchSize', found: 1, allowed: 'a whole number from 2' },
    ],
    [
      'fewer batches than a step takes',
      (c) => ({ ...c, train: { epochs: 1, warmupEpochs: 0, batchSize: 32, accumulate: 2 } }),
      { code: 'BAD_CONFIG', option: 'train.accumulate' },
    ],
    [
      'a bank of another size',
      async (c) => ({ ...c, names: undefined, bank: await smallBank() }),
      { code: 'BAD_BANK', option: 'bank' },
    ],
    [
      'weights of another student',
      async (c) => ({ ...c, student: { ...c.student, weights: await smallBank() } }),
      { code: 'BAD_MODEL', option: 'student.weights' },
    ],
    [
      'classes that the names do not have',
      (c) => ({ ...c, names: ['circle', 'square', 'dodecahedron'], evaluate: { data: labelled } }),
      { code: 'CLASS_MISMATCH' },
    ],
    [
      'a file of views without views',
      (c) => ({ ...c, teacherCache: { file: join(folder, 'views') } }),
      { code: 'BAD_CONFIG', option: 'teacherCache.file' },
    ],
    [
      'evaluation names without images',
      (c) => ({ ...c, evaluate: { names: shapeNames } }),
      { code: 'BAD_CONFIG', option: 'evaluate.names' },
    ],
    [
      'an evaluation bank without images',
      (c) => ({ ...c, evaluate: { bank: 'bank.safetensors' } }),
      { code: 'BAD_CONFIG', option: 'evaluate.bank' },
    ],
    [
      'a mapping without images',
      (c) => ({ ...c, evaluate: { mapping: 'mapping.json' } }),
      { code: 'BAD_CONFIG', option: 'evaluate.mapping' },
    ],
    ['a file in the place of the run folder', async (c) => ({ ...c, output: await file() }), { code: 'NOT_WRITABLE' }],
    [
      'a run folder where nothing can be written',
      (c) => ({ ...c, output: '/proc/self/run' }),
      { code: 'NOT_WRITABLE' },
    ],
    [
      'a run folder that is in use',
      async (c) => ({ ...c, output: await used() }),
      { code: 'BAD_CONFIG', option: 'output' },
    ],
  ];
  const empty = async () => made(join(folder, 'empty'));
  const ran = async () => {
    await writeFile(join(await made(join(folder, 'ran', 'checkpoints', 'best')), 'model.safetensors'), '');
    return join(folder, 'ran');
  };
  const used = async () => {
    const path = await made(join(folder, 'used'));
    await writeFile(join(path, 'thesis.txt'), 'mine');
    return path;
  };
  const made = async (path: string) => {
    await mkdir(path, { recursive: true });
    return path;
  };
  const file = async () => {
    await writeFile(join(folder, 'a-file'), '');
    return join(folder, 'a-file');
  };
  const smallBank = async () => {
    const path = join(folder, 'bank-of-three.safetensors');
    await TextualSemanticsBank.fromEmbeddings(['a'], Float32Array.of(1, 2, 3), { encoderId: 'none' }).save(path);
    return path;
  };

  it.each(wrong)('%s', async (_, change, expected) => {
    const started = performance.now();
    const error = await failure(await change(smallConfig(data, output())));
    expect(error).toMatchObject(expected);
    expect(error.mend ?? error.allowed).toBeDefined();
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
