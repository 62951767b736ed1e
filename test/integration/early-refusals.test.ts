/** What students cannot be is refused before anything is opened: all that is given besides it does not exist. */
import { access, mkdir, readdir, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config/config.js';
import type { ImageCache } from '../../lib/data/cache.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { openDevice, type Device } from '../../lib/device.js';
import { benchmark } from '../../lib/evaluate/benchmark.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { createStudent } from '../../lib/models/student.js';
import { mostRows } from '../../lib/number-limits.js';
import { Distiller } from '../../lib/train/distiller.js';
import { prepareRun } from '../../lib/train/setup.js';
import { verifyDevice } from '../../lib/train/verify/verify.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, madeUpTeacher, ownTeacher, tinyClip } from '../fixtures/tiny.js';
import { failure } from './train-fixture.js';

const vit = 'vit_tiny_patch16_224';
const folder = temporaryFolder();
const nowhere = join(folder, 'nowhere');
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  device.dispose();
});

const wrong: [string, ConfigInput, object][] = [
  [
    'a side that is no multiple of the patch',
    { student: { name: vit }, data: { resolution: 70 } },
    { option: 'data.resolution', found: 70, allowed: 'multiples of 16', mend: 'Set it to 64' },
  ],
  [
    'one that the teacher is to have, for want of another',
    { student: { name: vit }, teacherResolution: 70 },
    {
      option: 'teacherResolution',
      found: 70,
      mend: "Give data.resolution, the side of the student's input in pixels, such as 64",
    },
  ],
  [
    'a name with a slip',
    { student: { name: 'resnet81' } },
    { option: 'student.name', found: 'resnet81', mend: expect.stringContaining('Did you mean resnet18?') as string },
  ],
  [
    'a width the student has not',
    { student: { name: 'resnet18', widthMultiplier: 0.5 } },
    {
      option: 'student.widthMultiplier',
      found: 0.5,
      allowed: '1',
      mend: expect.stringContaining('mobilenet_v2') as string,
    },
  ],
];
const several: typeof wrong = [
  [
    'a side for one of two students alone',
    { student: { name: `resnet18,${vit},vit_small_patch32_224` }, data: { resolution: 48 } },
    { option: 'data.resolution', found: 48, allowed: 'multiples of 32', mend: 'Set it to 64' },
  ],
  [
    'one of two names with a slip',
    { student: { name: `${vit},resnet81` } },
    { option: 'student.name', found: 'resnet81' },
  ],
];

async function firstOf(generator: AsyncGenerator<unknown>): Promise<void> {
  await generator.next();
}

describe.each([...wrong, ...several])('%s', (name, input, expected) => {
  const config: ConfigInput = { device: 'cpu', teacher: nowhere, names: nowhere, ...input };
  const code = 'BAD_OPTION';

  it('is refused by prepareRun, which leaves nothing behind', async () => {
    const data = { ...config.data, train: nowhere };
    expect(await failure({ ...config, data, output: join(folder, 'run') })).toMatchObject({ code, ...expected });
    expect(await readdir(folder)).toEqual([]);
  });

  if (!several.some(([other]) => other === name))
    it('and by benchmark and verifyDevice', async () => {
      const sizes = { categories: 4, dimension: 8 };
      await expect(firstOf(benchmark(config, { device, ...sizes }))).rejects.toMatchObject({ code, ...expected });
      const other = Object.assign(Object.create(device) as Device, { kind: 'cuda' });
      await expect(firstOf(verifyDevice(config, { device: other, ...sizes }))).rejects.toMatchObject({
        code,
        ...expected,
      });
    });
});

describe('a file that a run needs besides images and teacher is looked at before these', () => {
  const elsewhere = join(folder, 'elsewhere');
  const names = ['a', 'b'];
  const missing = (found: string) => ({ code: 'FILE_NOT_FOUND', message: expect.stringContaining(found) as string });
  it.each<[string, ConfigInput, object]>([
    ['names', { names: elsewhere }, missing(elsewhere)],
    ['names twice', { names: ['a', 'a'] }, { code: 'BAD_NAMES' }],
    ['templates', { names, templates: `${elsewhere}.txt` }, missing(elsewhere)],
    ['a text bank', { bank: elsewhere }, missing(elsewhere)],
    ['no names where the method needs them', { method: 'lgd' }, { code: 'BAD_CONFIG', option: 'names' }],
    [
      'no names for zero-shot, and nothing in its place',
      { method: 'seed', evaluate: { data: elsewhere } },
      { code: 'BAD_CONFIG', option: 'evaluate.also' },
    ],
    ['names to choose among', { names, evaluate: { data: elsewhere, names: `${elsewhere}.txt` } }, missing(elsewhere)],
    ['a bank to choose among', { names, evaluate: { data: elsewhere, bank: elsewhere } }, missing(elsewhere)],
    ['a mapping', { names, evaluate: { data: elsewhere, mapping: elsewhere } }, missing(elsewhere)],
    ['weights to start from', { names, student: { weights: elsewhere } }, missing(elsewhere)],
    ['a folder as weights', { names, student: { weights: folder } }, { code: 'BAD_FILE', option: 'student.weights' }],
    [
      "the folder of the teacher's views",
      { names, teacherCache: { views: 2, file: join(elsewhere, 'views') } },
      { code: 'NOT_WRITABLE', message: expect.stringContaining(elsewhere) as string },
    ],
  ])('%s', async (_, given, expected) => {
    const config = { device: 'cpu', teacher: nowhere, data: { train: nowhere }, output: join(folder, 'run'), ...given };
    expect(await failure(config)).toMatchObject(expected);
    await expect(access(join(folder, 'run'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('what does not fit the teacher is refused before images are looked for and the teacher is opened', () => {
  const teacher = join(folder, 'embeddings.safetensors');
  const wide = join(folder, 'wide.safetensors');
  const notOne = join(folder, 'not-a-tower');
  const noTokenizer = join(folder, 'no-tokenizer');
  const names = ['a', 'b'];
  const bank = join(folder, 'bank.safetensors');
  beforeAll(async () => {
    await PrecomputedTeacher.save(teacher, ['a.png'], new Float32Array(8).fill(1), { resolution: 32 });
    // a queue of which takes 12 TB
    await PrecomputedTeacher.save(wide, ['a.png'], new Float32Array(65536).fill(1), { resolution: 32 });
    await TextualSemanticsBank.fromEmbeddings(names, new Float32Array(8).fill(1), { encoderId: 'own' }).save(bank);
    for (const path of [notOne, noTokenizer]) await mkdir(path);
    await writeMadeUpStudent(join(notOne, 'model.safetensors'), 'resnet18');
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      await symlink(join(tinyClip, file), join(notOne, file));
    for (const file of ['config.json', 'onnx']) await symlink(join(tinyClip, file), join(noTokenizer, file));
  });

  it.each<[string, ConfigInput, object]>([
    [
      'a text tower that is not there',
      { names, textEncoder: `${nowhere}-tower` },
      { code: 'FILE_NOT_FOUND', message: expect.stringContaining('nowhere-tower') as string },
    ],
    [
      'a text tower without its tokenizer',
      { names, textEncoder: noTokenizer },
      { code: 'BAD_MODEL', message: expect.stringContaining('lacks tokenizer.json') as string },
    ],
    [
      'a model that is no text tower',
      { names, textEncoder: notOne },
      { code: 'BAD_MODEL', message: expect.stringContaining('no text tower') as string },
    ],
    [
      'a text tower of another length',
      { names, textEncoder: tinyClip },
      { code: 'BAD_BANK', option: 'textEncoder', message: expect.stringContaining("the teacher's 8.") as string },
    ],
    [
      'one that only the evaluation needs',
      { method: 'seed', evaluate: { data: nowhere, names }, textEncoder: tinyClip },
      { code: 'BAD_BANK', option: 'textEncoder' },
    ],
    ['no text tower', { names }, { code: 'BAD_CONFIG', option: 'textEncoder' }],
    ['a text bank of another length', { bank }, { code: 'BAD_BANK', option: 'bank', found: 'own' }],
    [
      'a queue that no memory holds',
      { method: 'seed', teacher: wide, loss: { queueSize: mostRows } },
      { code: 'OUT_OF_MEMORY', option: 'loss.queueSize', found: mostRows },
    ],
    [
      'one by the method that few names have',
      { bank, teacher: wide, loss: { queueSize: mostRows } },
      { code: 'OUT_OF_MEMORY', option: 'loss.queueSize', found: mostRows },
    ],
    [
      'a teacher that is not there',
      { method: 'seed', teacher: `${nowhere}-teacher` },
      { code: 'FILE_NOT_FOUND', message: expect.stringContaining('nowhere-teacher') as string },
    ],
    [
      'a resolution that the teacher does not work at',
      { method: 'seed', teacher: tinyClip, teacherResolution: 96 },
      { code: 'BAD_OPTION', option: 'teacherResolution', found: 96 },
    ],
    [
      'a place for decoded images that cannot be written to',
      { method: 'seed', data: { spillFolder: join(teacher, 'spilled') } },
      {
        code: 'NOT_WRITABLE',
        option: 'data.spillFolder',
        found: join(teacher, 'spilled'),
        message: expect.stringContaining(`cannot write ${join(teacher, 'spilled')}`) as string,
      },
    ],
  ])('%s', async (_, given, expected) => {
    const data = { ...given.data, train: nowhere };
    expect(await failure({ device: 'cpu', teacher, output: join(folder, 'run'), ...given, data })).toMatchObject(
      expected,
    );
    await expect(access(join(folder, 'run'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

it('a folder for decoded images is made for a run, and goes with it where nothing is in it', async () => {
  const images = join(folder, 'few');
  const spillFolder = join(folder, 'new', 'spilled');
  await drawShapes(images, { count: 8 });
  const { teacher } = await madeUpTeacher(join(folder, 'few'));
  const run = await prepareRun({
    device: 'cpu',
    teacher,
    method: 'seed',
    data: { train: images, spillFolder },
    train: { batchSize: 2 },
    output: join(folder, 'run'),
  });
  await access(spillFolder);
  await run.dispose();
  await expect(access(dirname(spillFolder))).rejects.toMatchObject({ code: 'ENOENT' });
});

it('a folder for decoded images may lie in that of the run, of one student or of several', async () => {
  const images = join(folder, 'within');
  await drawShapes(images, { count: 8 });
  const { teacher } = await madeUpTeacher(images);
  for (const name of ['mobilenet_v3_small', 'mobilenet_v3_small,mobilenet_v2']) {
    const output = join(folder, `run of ${name}`);
    const spillFolder = join(output, 'decoded', 'pixels');
    const config: ConfigInput = {
      device: 'cpu',
      teacher,
      student: { name, widthMultiplier: 0.35 },
      method: 'seed',
      data: { train: images, spillFolder, resolution: 32 },
      train: { batchSize: 2, maxSteps: 1 },
      output,
    };
    await (await prepareRun(config)).dispose();
    await expect(access(output)).rejects.toMatchObject({ code: 'ENOENT' });
    {
      await using run = await prepareRun(config);
      for await (const event of run.run()) if (event.type === 'step') expect(event.step).toBe(1);
    }
    expect(await readdir(output)).not.toContain('decoded');
    expect(await failure(config)).toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
  }
});

it('a folder for decoded images stays for a run that is prepared while the one that made it ends', async () => {
  const images = join(folder, 'sharing');
  const spillFolder = join(folder, 'shared');
  await drawShapes(images, { count: 8 });
  const { teacher } = await madeUpTeacher(images);
  const config = (output: string): ConfigInput => ({
    device: 'cpu',
    teacher,
    method: 'seed',
    data: { train: images, spillFolder, cache: 'all', cacheMemory: 0 },
    train: { batchSize: 2 },
    output: join(folder, output),
  });
  const first = await prepareRun(config('first'));
  let ending: Promise<void> | undefined;
  await using second = await prepareRun(config('second'), {
    onProgress: ({ phase }) => {
      if (phase === 'teacher') ending ??= first.dispose();
    },
  });
  await ending;
  expect((second.dataset as ImageCache).spilledBytes).toBeGreaterThan(0);
});

it('a folder for decoded images is not looked at where none are kept', async () => {
  const images = join(folder, 'streamed');
  await drawShapes(images, { count: 8 });
  const { teacher } = await madeUpTeacher(images);
  const data = { spillFolder: join(teacher, 'spilled'), cache: 'stream' as const };
  const config: ConfigInput = { device: 'cpu', teacher, method: 'seed', output: join(folder, 'streamed run') };
  await using run = await prepareRun({ ...config, data: { ...data, train: images }, train: { batchSize: 2 } });
  expect(run.dataset).toBeInstanceOf(StreamedImages);
});

describe("the teacher's side, where the student has none of its own", () => {
  it('is refused once the teacher tells it, before text bank and embeddings are looked at', async () => {
    const teacher = join(folder, 'teacher.safetensors');
    await PrecomputedTeacher.save(teacher, ['no/such.png'], new Float32Array(16).fill(1), { resolution: 40 });
    const data = join(folder, 'images');
    await drawShapes(data, { count: 1 });
    const config: ConfigInput = {
      device: 'cpu',
      teacher,
      names: ['a', 'b'],
      textEncoder: nowhere,
      student: { name: vit },
    };
    expect(
      await failure({ ...config, data: { train: data }, train: { batchSize: 2 }, output: join(folder, 'run') }),
    ).toMatchObject({
      code: 'BAD_OPTION',
      option: 'teacher',
      found: 40,
      mend: "Give data.resolution, the side of the student's input in pixels, such as 48",
    });
    await expect(firstOf(benchmark(config, { device, categories: 4, dimension: 8 }))).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'teacher',
      found: 40,
    });
  });

  it.each(['abc', '0', '32.5'])('is a fault of a file of embeddings that states "%s"', async (resolution) => {
    const teacher = join(folder, `states ${resolution}.safetensors`);
    const rows = { shape: [1, 16], data: new Float32Array(16).fill(1) };
    await writeSafetensors(teacher, [['embeddings', rows]], { ids: '["a.png"]', resolution });
    const config: ConfigInput = { device: 'cpu', teacher, method: 'seed', data: { train: nowhere } };
    expect(await failure({ ...config, output: join(folder, 'run') })).toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('its resolution is not a number of pixels') as string,
    });
  });

  it('and where it is not that of a student with positions, by a Distiller under the name it was given', () => {
    const teacher = ownTeacher({ resolution: 56 });
    const student = createStudent(vit, { device, embeddingSize: 16 });
    expect(
      () => new Distiller({ device, teacher, student, config: { method: 'seed', data: { resolution: 64 } } }),
    ).toThrow(expect.objectContaining({ code: 'BAD_OPTION', option: 'data.resolution', found: 64, allowed: '224' }));
    expect(() => new Distiller({ device, teacher, student, config: { method: 'seed' } })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'teacher.resolution', found: 56, allowed: '224' }),
    );
  });
});

it('an evaluation whose results cannot be written is refused before images are looked for', async () => {
  const file = join(folder, 'student.safetensors');
  await writeMadeUpStudent(file, 'resnet18');
  const evaluated = (output: string, data: ConfigInput['data'] = {}) =>
    evaluateProtocol({
      student: file,
      protocol: 'knn',
      config: { device: 'cpu', data, evaluate: { data: nowhere, train: nowhere, output } },
    });
  await expect(evaluated(join(file, 'results'))).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  const results = join(folder, 'results');
  const spillFolder = join(file, 'spilled');
  await expect(evaluated(results)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(evaluated(results, { spillFolder })).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    option: 'data.spillFolder',
  });
  await expect(evaluated(results, { spillFolder, cache: 'stream' })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(access(results)).rejects.toMatchObject({ code: 'ENOENT' });
});
