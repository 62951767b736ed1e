/**
 * Calls as programs without types make them: each is refused in words that name the argument, before anything is
 * computed with it.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as api from '../../lib/index.js';
import { LgdError, type ErrorCode } from '../../lib/errors.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { ownTeacher, plainPicture, tinyClip } from '../fixtures/tiny.js';

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- what a caller from JavaScript may write
type Anything = any;
const js = api as Anything;

const picture = await plainPicture('red');
const folder = temporaryFolder();
const size = 8;
const names = ['a', 'b', 'c'];
const options = (device: api.Device): api.ImageCacheOptions => ({
  device,
  resolution: 32,
  margin: 1,
  memoryLimitBytes: 1e9,
  spillFolder: folder,
  maxBrokenShare: 0,
});

let device: api.Device;
let other: api.Device;
let images: api.ImageCache;
let student: api.Student;
let distiller: api.Distiller;
const tsb = api.TextualSemanticsBank.fromEmbeddings(
  names,
  Float32Array.from({ length: names.length * size }, (_, i) => Math.sin(i)),
  { encoderId: 'made up' },
);
/** A teacher of a caller's own: an object. */
const teacher = ownTeacher({ embeddingSize: size });
const config: api.ConfigInput = { method: 'lgd', output: join(folder, 'run'), train: { batchSize: 2 } };

beforeAll(async () => {
  [device, other] = [await api.openDevice('cpu', { threads: 1 }), await api.openDevice('cpu', { threads: 1 })];
  images = await api.ImageCache.build(
    api.imagesFromBuffers(['1', '2', '3', '4'].map((id) => ({ id, bytes: picture }))),
    options(device),
  );
  student = api.createStudent('mobilenet_v3_small', { device, embeddingSize: size, widthMultiplier: 0.25 });
  distiller = new api.Distiller({ device, teacher, student, tsb, config });
});
afterAll(() => {
  for (const object of [distiller, images, device, other]) object.dispose();
});

const batch = (): api.Batch => ({ ...new api.BatchPlan(images, { batchSize: 2, seed: 0 }).next(), dataset: images });

async function refusal(call: () => unknown): Promise<LgdError> {
  const error: unknown = await Promise.resolve()
    .then(call)
    .then(
      () => new Error('nothing was refused'),
      (reason: unknown) => reason,
    );
  expect(error, String((error as Error).stack)).toBeInstanceOf(LgdError);
  return error as LgdError;
}

async function refused(
  code: ErrorCode,
  option: string | undefined,
  calls: Record<string, () => unknown>,
): Promise<void> {
  for (const [what, call] of Object.entries(calls)) {
    const { code: found, option: named, message } = await refusal(call);
    expect({ code: found, option: named }, `${what}: ${message}`).toEqual({ code, option });
  }
}

describe('what was not awaited', () => {
  it('is told to be a promise', async () => {
    const [opened, built] = [Promise.resolve(device), Promise.resolve(tsb)];
    const calls: Record<string, () => unknown> = {
      device: () => js.createStudent('resnet18', { device: opened, embeddingSize: size }),
      teacher: () => new js.Distiller({ device, teacher: Promise.resolve(teacher), student, tsb }),
      tsb: () => new js.Distiller({ device, teacher, student, tsb: built }),
      encoder: () => js.TextualSemanticsBank.build(names, { encoder: Promise.resolve({}) }),
      source: () => js.ImageCache.build(Promise.resolve({}), options(device)),
      dataset: () => js.Distiller.prototype.run.call(distiller, Promise.resolve(images)),
      ticket: () => js.Distiller.prototype.readMetrics.call(distiller, Promise.resolve({})),
      state: () => js.Distiller.prototype.restore.call(distiller, distiller.state()),
    };
    await refused('BAD_OPTION', 'device', {
      loadTeacher: () => js.loadTeacher('x', { device: opened }),
      createEncoder: () => js.createEncoder('resnet18', { device: opened, outputs: 2 }),
      loadStudent: () => js.loadStudent('x', { device: opened }),
      bankLoss: () => js.bankLoss({}, { device: opened }),
      readViews: () => js.readViews(images, batch(), { device: opened }),
    });
    for (const [option, call] of Object.entries(calls)) {
      const error = await refusal(call);
      expect(error).toMatchObject({ code: 'BAD_OPTION', option, mend: 'Put await before the call that gave it' });
      expect(error.message).toContain('this is a promise');
    }
  });
});

describe('what is missing', () => {
  it('is asked for', async () => {
    await refused('BAD_OPTION', 'options', {
      openDevice: () => js.openDevice('cpu', null),
      loadTeacher: () => js.loadTeacher('x'),
      createStudent: () => js.createStudent('resnet18'),
      createEncoder: () => js.createEncoder('resnet18'),
      build: () => js.ImageCache.build({}),
      fromStream: () => js.ImageCache.fromStream([]),
      Distiller: () => new js.Distiller(),
      fromEmbeddings: () => js.TextualSemanticsBank.fromEmbeddings(names, new Float32Array(3)),
      bank: () => js.TextualSemanticsBank.build(names),
      queueStep: () => js.Distiller.prototype.queueStep.call(distiller, [batch()]),
      readViews: () => js.readViews(images, batch()),
      bankLoss: () => js.bankLoss(undefined, { device: 'js' }),
      noDevice: () => js.bankLoss({}),
      bankUpdate: () => js.bankUpdate({}),
      featureLoss: () => js.featureLoss(),
      exportStudent: () => js.exportStudent(),
      evaluateStudent: () => js.evaluateStudent(),
      evaluateProtocol: () => js.evaluateProtocol(),
      loadStudent: () => js.loadStudent('x'),
      zeroShot: () => new js.ZeroShotEvaluation(),
      plan: () => new js.BatchPlan(images),
      report: () => js.writeReport(),
      compile: () => (student as Anything).compile(),
    });
    await refused('BAD_OPTION', 'images', { plan: () => new js.BatchPlan() });
    await refused('BAD_OPTION', 'data', {
      openImages: () => js.openImages(),
      openImageFolder: () => js.openImageFolder(),
    });
    await refused('BAD_OPTION', 'options', { makeSchedule: () => js.makeSchedule() });
    await refused('BAD_OPTION', 'idOrDir', {
      clip: () => js.ClipTextEncoder.load(),
      native: () => js.NativeTextEncoder.load(),
      either: () => js.loadTextEncoder(),
    });
    await refused('BAD_OPTION', 'file', { save: () => js.TextualSemanticsBank.prototype.save.call(tsb) });
    await refused('BAD_OPTION', 'path', { writeSafetensors: () => js.writeSafetensors(undefined, [], {}) });
    await refused('BAD_OPTION', 'output', { resumeConfig: () => js.resumeConfig() });
    await refused('BAD_OPTION', 'to', { exportStudent: () => js.exportStudent({ from: folder }) });
    await refused('BAD_OPTION', 'student', {
      exportStudent: () => js.exportStudent({ to: join(folder, 'x.safetensors') }),
      createStudent: () => js.createStudent(undefined, { device, embeddingSize: size }),
    });
    await refused('BAD_OPTION', 'teacher', {
      loadTeacher: () => js.loadTeacher(undefined, { device }),
      Distiller: () => new js.Distiller({ device, student, tsb }),
    });
    expect((await refusal(() => js.createStudent('resnet18'))).message).toBe(
      'options: this is missing. Allowed: an object with device, embeddingSize. Call createStudent() with { device, embeddingSize }.',
    );
  });
});

describe('a word that is none of those', () => {
  it.each<[string, () => unknown]>([
    ['labels', () => js.openImages(folder, { labels: 'class folders' })],
    ['labels', () => js.openImageFolder(folder, { labels: 'auto' })],
    ['mode', () => js.openDataset({}, 'streamed', options(device))],
    ['mode', () => js.chooseMode({}, 'memory', options(device))],
    ['at', () => js.compareRuns(['x'], { at: 'first' })],
    ['head', () => js.exportStudent({ from: 'x', to: join(folder, 'x.safetensors'), head: 'remove' })],
  ])('%s', (option, call) => refused('BAD_OPTION', option, { [option]: call }));

  it('nor is a data set measured without its side', () =>
    refused('BAD_OPTION', 'resolution', {
      chooseMode: () => js.chooseMode({ ids: [], read: () => undefined }, 'auto', {}),
    }));
});

describe('an option that a call does not know', () => {
  const unknown = { unheardOf: 1 };
  const cacheOptions = (more: object) => ({ ...options(device), ...more });
  const view = { resolution: 32, mean: teacher.mean, std: teacher.std };
  const encoder = () => new js.GraphBuilder('x');

  it.each<[string, (more: object) => unknown]>([
    ['openDevice()', (more) => js.openDevice('cpu', more)],
    ['inspectSystem()', (more) => js.inspectSystem(more)],
    ['loadTeacher()', (more) => js.loadTeacher('x', { device, ...more })],
    ['NativeTeacher.load()', (more) => js.NativeTeacher.load('x', 'x', 'x', { device, ...more })],
    ['NativeTeacher.loadStudent()', (more) => js.NativeTeacher.loadStudent('x', 'x', { device, ...more })],
    ['OnnxTeacher.load()', (more) => js.OnnxTeacher.load('x', more)],
    [
      'PrecomputedTeacher.save()',
      (more) => js.PrecomputedTeacher.save(join(folder, 'x'), ['a'], new Float32Array(1), more),
    ],
    ['writeConfigFile()', (more) => js.writeConfigFile(join(folder, 'x'), {}, more)],
    ['createStudent()', (more) => js.createStudent('resnet18', { device, embeddingSize: size, ...more })],
    ['studentGraph()', (more) => js.studentGraph('resnet18', { embeddingSize: size, ...more })],
    ['createEncoder()', (more) => js.createEncoder('resnet18', { device, outputs: 2, ...more })],
    ['compile()', (more) => student.compile({ batch: 1, resolution: 32, ...more })],
    ['new GraphBuilder()', (more) => new js.GraphBuilder('x', more)],
    ['conv()', (more) => encoder().conv(encoder().images, 'c', { channels: 8, ...more })],
    ['conv()', (more) => encoder().convNorm(encoder().images, 'c', { channels: 8, ...more })],
    ['linear()', (more) => encoder().linear(encoder().images, 'l', { features: 8, ...more })],
    ['loadStudent()', (more) => js.loadStudent('x', { device, ...more })],
    ['ClipTextEncoder.load()', (more) => js.ClipTextEncoder.load('x', more)],
    ['NativeTextEncoder.load()', (more) => js.NativeTextEncoder.load('x', more)],
    ['loadTextEncoder()', (more) => js.loadTextEncoder('x', more)],
    ['check()', async (more) => (await api.CategoryList.load(names)).check(more)],
    ['writeNames()', (more) => js.writeNames(join(folder, 'names.txt'), names, more)],
    ['TextualSemanticsBank.build()', (more) => js.TextualSemanticsBank.build(names, { encoder: {}, ...more })],
    [
      'TextualSemanticsBank.fromEmbeddings()',
      (more) => js.TextualSemanticsBank.fromEmbeddings(names, new Float32Array(3), { encoderId: 'x', ...more }),
    ],
    ['nearestNames()', (more) => tsb.nearestNames(more)],
    ['bankFromFile()', (more) => js.bankFromFile('x', more)],
    ['bankLoss()', (more) => js.bankLoss({}, { device: 'js', ...more })],
    ['bankUpdate()', (more) => js.bankUpdate({}, { device: 'js', ...more })],
    ['featureLoss()', (more) => js.featureLoss({}, { device: 'js', ...more })],
    ['ImageCache.build()', (more) => js.ImageCache.build({}, cacheOptions(more))],
    ['ImageCache.fromStream()', (more) => js.ImageCache.fromStream([], cacheOptions(more))],
    ['StreamedImages.open()', (more) => js.StreamedImages.open({}, more)],
    ['openDataset()', (more) => js.openDataset({}, 'all', cacheOptions(more))],
    ['chooseMode()', (more) => js.chooseMode({}, 'all', more)],
    ['openImages()', (more) => js.openImages('x', more)],
    ['openImageFolder()', (more) => js.openImageFolder('x', more)],
    ['packImages()', (more) => js.packImages({}, { output: 'x', ...more })],
    ['measureData()', (more) => js.measureData([], {}, more).next()],
    ['new BatchPlan()', (more) => new js.BatchPlan(images, { batchSize: 2, seed: 0, ...more })],
    ['readViews()', (more) => js.readViews(images, batch(), { device, ...view, ...more })],
    ['new Distiller()', (more) => new js.Distiller({ device, teacher, student, tsb, ...more })],
    [
      'queueStep(batches, ...)',
      (more) => js.Distiller.prototype.queueStep.call(distiller, [batch()], { step: 0, learningRate: 0, ...more }),
    ],
    ['run(dataset, ...)', (more) => js.Distiller.prototype.run.call(distiller, images, more)],
    ['preflight()', (more) => js.preflight(distiller, images, more)],
    ['TeacherViewCache.open()', (more) => js.TeacherViewCache.open(more)],
    ['prepareRun()', (more) => js.prepareRun({}, more)],
    ['evaluateProtocol()', (more) => js.evaluateProtocol({ student: 'x', protocol: 'knn', config: {}, ...more })],
    ['evaluateStudent()', (more) => js.evaluateStudent({ student: 'x', config: {}, ...more })],
    [
      'new ZeroShotEvaluation()',
      (more) => new js.ZeroShotEvaluation({ device, images, bank: tsb, mean: teacher.mean, std: teacher.std, ...more }),
    ],
    ['new FrozenEvaluation()', (more) => new js.FrozenEvaluation(more)],
    ['benchmark()', (more) => js.benchmark({}, { device, categories: 2, dimension: 8, ...more }).next()],
    ['measureInference()', (more) => js.measureInference(distiller.encoder, more)],
    ['measureTraining()', (more) => js.measureTraining(distiller.encoder, more)],
    ['measureSemantic()', (more) => js.measureSemantic(device, { batch: 1, categories: 2, dimension: 8, ...more })],
    ['trainSegmentation()', (more) => js.trainSegmentation(more).next()],
    ['evaluateSegmentation()', (more) => js.evaluateSegmentation(more)],
    ['evaluateZeroShotSegmentation()', (more) => js.evaluateZeroShotSegmentation(more)],
    ['Segmenter.load()', (more) => js.Segmenter.load('x', { device, ...more })],
    ['trainDetection()', (more) => js.trainDetection(more).next()],
    ['evaluateDetection()', (more) => js.evaluateDetection(more)],
    ['Detector.load()', (more) => js.Detector.load('x', { device, ...more })],
    ['writeReport()', (more) => js.writeReport({ runs: ['x'], ...more })],
    ['compareRuns()', (more) => js.compareRuns(['x'], more)],
    ['exportStudent()', (more) => js.exportStudent({ from: 'x', to: 'y.safetensors', ...more })],
  ])('is refused by %s', async (call, make) => {
    expect(await refusal(() => make(unknown))).toMatchObject({
      code: 'BAD_OPTION',
      option: 'unheardOf',
      message: expect.stringMatching(
        `^unheardOf: ${call.replaceAll(/[().]/gu, '\\$&')} has no such option\\. Allowed: .*\\. Leave it out\\.$`,
      ) as string,
    });
  });

  it('is told with the nearest that there is', async () => {
    expect((await refusal(() => js.openDevice('cpu', { thread: 2 }))).message).toBe(
      'thread: openDevice() has no such option. Allowed: threads. Did you mean threads?',
    );
    for (const [given, meant] of [
      ['embedding_size', 'embeddingSize'],
      ['Seed', 'seed'],
      ['widthMultplier', 'widthMultiplier'],
    ] as const) {
      expect(
        await refusal(() => js.createStudent('resnet18', { device, embeddingSize: size, [given]: 1 })),
      ).toMatchObject({ option: given, mend: `Did you mean ${meant}?` });
    }
    await refused('BAD_OPTION', 'constructor', { inherited: () => js.openDevice('cpu', { constructor: 1 }) });
    await refused('BAD_OPTION', 'options', { array: () => js.openDevice('cpu', [1]) });
    const found = await api.openDevice('cpu', { threads: undefined });
    expect(found.info.threads).toBeGreaterThan(0); // one that is known may be left undefined
    found.dispose();
  });

  it('is known by a table for every exported kind of options', () => {
    const lib = fileURLToPath(new URL('../../lib', import.meta.url));
    const sources = readdirSync(lib, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(join(lib, name), 'utf8'));
    const exported = ['index.ts', 'models/index.ts'].flatMap((name) =>
      [...readFileSync(join(lib, name), 'utf8').matchAll(/type (\w+Options)\b/gu)].map(([, type]) => type!),
    );
    const tables = new Set(
      sources.flatMap((text) => [...text.matchAll(/OptionTable<(\w+)>/gu)].map(([, type]) => type!)),
    );
    const others = [
      'ScheduleOptions', // all needed; a whole group of a configuration is given as it is
      'SemanticOptions', // of the addon itself
      'NativeTeacherOptions',
      'OnnxTeacherOptions', // of loaders behind loadTeacher()
    ];
    expect(exported.length).toBeGreaterThan(30);
    expect(exported.filter((type) => !tables.has(type) && !others.includes(type))).toEqual([]);
  });
});

describe('what is of another kind', () => {
  it('is named', async () => {
    await refused('BAD_OPTION', 'teacher', { path: () => new js.Distiller({ device, teacher: 'clip', student, tsb }) });
    await refused('BAD_OPTION', 'student', {
      name: () => new js.Distiller({ device, teacher, student: 'resnet18', tsb }),
    });
    await refused('BAD_OPTION', 'compiled', { student: () => new js.Encoder(student) });
    await refused('BAD_OPTION', 'tsb', { names: () => new js.Distiller({ device, teacher, student, tsb: names }) });
    await refused('BAD_OPTION', 'data.margin', {
      measureData: () => js.measureData([], { data: { margin: 9 } }).next(),
    });
    await refused('BAD_OPTION', 'source', { path: () => js.ImageCache.build('photos', options(device)) });
    await refused('BAD_OPTION', 'dataset', {
      source: () => js.Distiller.prototype.run.call(distiller, { root: '.', ids: [], read: () => undefined }),
    });
    const { ids, sourceIndex, store } = images;
    const told = { length: images.length, ids, sourceIndex, store };
    await refused('BAD_DATASET', 'ids', { few: () => distiller.run({ ...told, ids: ids.slice(1) }) });
    await refused('BAD_DATASET', 'sourceIndex', {
      few: () => distiller.run({ ...told, sourceIndex: sourceIndex.subarray(1) }),
    });
    await refused('BAD_OPTION', 'signal', {
      controller: () => js.Distiller.prototype.run.call(distiller, images, { signal: new AbortController() }),
      build: () => js.bankLoss({}, { device: 'js', signal: {} }),
    });
    await refused('BAD_OPTION', 'resume', {
      true: () => js.Distiller.prototype.run.call(distiller, images, { resume: true }),
    });
    await refused('BAD_OPTION', 'format', {
      unknown: () => js.exportStudent({ from: folder, to: 'x.onnx', format: 'tflite' }),
    });
    await refused('BAD_NAMES', 'names', {
      number: () => js.CategoryList.load(3),
      promise: () =>
        js.TextualSemanticsBank.fromEmbeddings(Promise.resolve(names), new Float32Array(3), { encoderId: 'x' }),
    });
    await refused('BAD_SHAPE', 'embeddings', {
      array: () => js.TextualSemanticsBank.fromEmbeddings(['a'], [1, 2], { encoderId: 'x' }),
      queue: () => new api.MemoryQueue(3, 2).push([1, 2] as Anything),
    });
    await refused('BAD_MODEL', undefined, {
      nothing: () => (student as Anything).load(),
      arrays: () =>
        student.load(
          Object.fromEntries(Object.entries(student.weights).map(([name, { data }]) => [name, data])) as Anything,
        ),
    });
  });

  it('is refused by what loads a text encoder', async () => {
    for (const batchSize of ['x', NaN, 0, 1.5, null]) {
      await refused('BAD_OPTION', 'batchSize', {
        clip: () => js.ClipTextEncoder.load(tinyClip, { batchSize }),
        native: () => js.NativeTextEncoder.load(tinyClip, { batchSize }),
        either: () => js.loadTextEncoder(tinyClip, { batchSize }),
      });
    }
  });

  it('is refused by what encodes texts', async () => {
    await using encoder: Anything = await api.ClipTextEncoder.load(tinyClip);
    const native: Anything = api.NativeTextEncoder.prototype;
    for (const texts of ['a cat', undefined, ['a cat', 3], new Set(['a cat'])]) {
      await refused('BAD_OPTION', 'texts', { clip: () => encoder.encode(texts), native: () => native.encode(texts) });
    }
    expect((await refusal(() => encoder.encode('a cat'))).message).toBe(
      'texts: these are no texts. Found: "a cat". Allowed: an array of strings. Put it in an array: [text].',
    );
  });

  it('is refused by what makes a schedule, which takes a whole train besides', async () => {
    const { train } = api.parseConfig({ train: { batchSize: 256, learningRate: 0.03 } });
    js.makeSchedule({ ...train, batchesPerEpoch: 10 });
    await refused('BAD_OPTION', 'batchesPerEpoch', { without: () => js.makeSchedule(train) });
    await refused('BAD_OPTION', 'batchSize', {
      auto: () => js.makeSchedule({ ...train, batchSize: 'auto', batchesPerEpoch: 10 }),
    });
  });

  it('is shown in few words', async () => {
    const found = async (value: unknown) => (await refusal(() => js.CategoryList.load({ value }))).message;
    const cyclic: Record<string, unknown> = {};
    cyclic['self'] = cyclic;
    for (const value of [3n, cyclic]) expect(await found(value)).toContain('Found: an object.');
    const message = (value: unknown) => new LgdError('BAD_OPTION', 'no.', { found: value, mend: 'Do' }).message;
    expect(message(new Float32Array(7))).toBe('no. Found: Float32Array of 7 values. Do.');
    expect(message(device)).toBe('no. Found: an object of class Device. Do.');
    expect(message(names)).toBe('no. Found: ["a","b","c"]. Do.');
  });
});

describe('a step', () => {
  const queue = (batches: unknown, more: object = {}) =>
    (distiller as Anything).queueStep(batches, { step: 0, learningRate: 0.1, ...more });

  it('refuses what would make every weight NaN, and leaves them as they are', async () => {
    const before = await distiller.state();
    await refused(
      'BAD_OPTION',
      'learningRate',
      Object.fromEntries(
        [NaN, undefined, '0.1', -1, Infinity].map((learningRate) => [
          String(learningRate),
          () => queue([batch()], { learningRate }),
        ]),
      ),
    );
    await refused('BAD_OPTION', 'step', {
      none: () => queue([batch()], { step: undefined }),
      text: () => queue([batch()], { step: '1' }),
      part: () => queue([batch()], { step: 0.5 }),
    });
    expect(await distiller.state()).toEqual(before);
    using encoder = await api.createEncoder('mobilenet_v3_small', {
      device,
      outputs: 2,
      resolution: 32,
      batch: 2,
      widthMultiplier: 0.25,
    });
    await refused('BAD_OPTION', 'learningRate', { nan: () => encoder.optimizerStep({ learningRate: NaN }) });
    await refused('BAD_OPTION', 'momentum', {
      'not of a step': () => encoder.optimizerStep({ learningRate: 0.1, momentum: 0.9 } as Anything),
    });
    await refused('BAD_OPTION', 'weightDecay', {
      negative: () => encoder.optimizerStep({ learningRate: 0.1, weightDecay: -1 }),
    });
  });

  it('refuses a batch that is not whole, before any of it is queued', async () => {
    const [some, before] = [Int32Array.of(0), await distiller.state()];
    await refused('BAD_SHAPE', 'images', { short: () => queue([{ ...batch(), images: some, drawIds: some }]) });
    await refused('BAD_SHAPE', 'drawIds', { short: () => queue([{ ...batch(), drawIds: some }]) });
    await refused('BAD_OPTION', 'seed', { none: () => queue([{ ...batch(), seed: undefined }]) });
    await refused('BAD_OPTION', 'epoch', { text: () => queue([{ ...batch(), epoch: '1' }]) });
    expect(await distiller.state()).toEqual(before);
  });

  it('may have fewer batches than train.accumulate, and is then that of one with so many', async () => {
    const weightsOf = async (accumulate: number, count: number) => {
      using own = new api.Distiller({
        device,
        teacher,
        student,
        tsb,
        config: { ...config, train: { batchSize: 2, accumulate } },
      });
      await own.queueStep(Array.from({ length: count }, batch), { step: 0, learningRate: 0.1 });
      return (await own.state()).weights;
    };
    expect(await weightsOf(3, 2)).toEqual(await weightsOf(2, 2));
    expect(await weightsOf(2, 1)).not.toEqual(await weightsOf(2, 2));
  });

  it('takes no more batches than train.accumulate says: embeddings of more would overwrite each other', async () => {
    await refused('BAD_SHAPE', 'batches', {
      two: () => queue([batch(), batch()]),
      none: () => queue([]),
      alone: () => queue(batch()),
    });
    await refused('BAD_OPTION', 'batch', {
      planned: () => queue([new api.BatchPlan(images, { batchSize: 2, seed: 0 }).next()]),
    });
  });

  it('has numbers until so many others are queued, and not those of a later one', async () => {
    using own = new api.Distiller({ device, teacher, student, tsb, config });
    const first = await own.queueStep([batch()], { step: 0, learningRate: 0.01 });
    for (let step = 1; step < 64; step++) await own.queueStep([batch()], { step, learningRate: 0.01 });
    expect((await own.readMetrics(first)).loss).toBeGreaterThan(0);
    await own.queueStep([batch()], { step: 64, learningRate: 0.01 });
    await refused('BAD_OPTION', 'ticket', { late: () => own.readMetrics(first) });
  });

  it('has its numbers from its own distiller alone: those of another stand in the same slots', async () => {
    using own = new api.Distiller({ device, teacher, student, tsb, config });
    const ticket = await own.queueStep([batch()], { step: 0, learningRate: 0.01 });
    await refused('BAD_OPTION', 'ticket', {
      other: () => distiller.readMetrics(ticket),
      copy: () => own.readMetrics({ ...ticket }),
    });
    expect((await own.readMetrics(ticket)).loss).toBeGreaterThan(0);
  });

  it('needs a student whose graph gives one embedding', async () => {
    const graphs: Record<string, (g: api.GraphBuilder) => api.GraphSpec> = {
      short: (g) => g.finish(g.linear(g.globalPool(g.images), 'fc', { features: size - 1 })),
      two: (g) =>
        g.finish(
          ...(['a', 'b'].map((name) => g.linear(g.globalPool(g.images), name, { features: size })) as [
            api.Value,
            api.Value,
          ]),
        ),
      map: (g) => g.finish(g.conv(g.images, 'map', { channels: size, kernel: 3, stride: 2 })),
    };
    const make = (build: (g: api.GraphBuilder) => api.GraphSpec) => () =>
      new api.Distiller({
        device,
        teacher,
        student: new api.Student('mine', device, size, 1, build(new api.GraphBuilder('mine')), 0),
        tsb,
        config,
      });
    await refused(
      'BAD_MODEL',
      undefined,
      Object.fromEntries(Object.entries(graphs).map(([what, build]) => [what, make(build)])),
    );
  });

  it('needs a teacher with what its kind has', async () => {
    const make = (more: object) => () =>
      new api.Distiller({ device, teacher: { ...teacher, ...more } as Anything, student, tsb, config });
    await refused('BAD_OPTION', 'teacher.kind', { other: make({ kind: 'clip' }) });
    await refused('BAD_OPTION', 'teacher', { embeds: make({ kind: 'precomputed' }) });
    await refused('BAD_OPTION', 'teacher', {
      nameless: () =>
        new api.Distiller({
          device,
          teacher: Object.fromEntries(Object.entries(teacher).filter(([key]) => key !== 'fingerprint')) as Anything,
          student,
          tsb,
          config,
        }),
    });
  });

  it('leaves a run as it is that was to be begun anew with a teacher that fails', async () => {
    const run = async (more: object) => {
      using own = new api.Distiller({
        device,
        teacher: { ...teacher, ...more },
        student,
        tsb,
        config: { ...config, overwrite: true, train: { batchSize: 2, epochs: 1 } },
      });
      for await (const event of own.run(images)) expect(event.type).not.toBe('interrupted');
    };
    await run({});
    await expect(run({ fingerprint: () => Promise.reject(new Error('the server is away')) })).rejects.toThrow(
      'the server is away',
    );
    expect(existsSync(join(folder, 'run', 'checkpoints', 'last'))).toBe(true);
  });

  it('goes on with the teacher of its own that the run was begun with, and names it where another comes', async () => {
    const run = async (more: object, options: api.RunOptions) => {
      using own = new api.Distiller({
        device,
        teacher: { ...teacher, ...more } as Anything,
        student,
        tsb,
        config: {
          ...config,
          output: join(folder, 'same-teacher'),
          train: { batchSize: 2, epochs: 1, maxSteps: options.resume === undefined ? 1 : 2 },
        },
      });
      const steps: number[] = [];
      for await (const event of own.run(images, options)) if (event.type === 'step') steps.push(event.step);
      return steps;
    };
    expect(await run({}, {})).toEqual([1]);
    const { message } = await refusal(() => run({ fingerprint: async () => 'another' }, { resume: 'last' }));
    for (const words of [
      'own (custom), 8 values of 32 px, fingerprint another',
      'own (custom), 8 values of 32 px, fingerprint own',
    ])
      expect(message).toContain(words);
    expect(await run({}, { resume: 'last' })).toEqual([2]);
  });

  it('is all on one device', async () => {
    const elsewhere = api.createStudent('resnet18', { device: other, embeddingSize: size });
    await refused('BAD_OPTION', 'student', {
      student: () => new api.Distiller({ device, teacher, student: elsewhere, tsb, config }),
    });
  });

  it('learns from a teacher that is an object, whose embeddings are looked at', async () => {
    const metrics = await distiller.readMetrics(await distiller.queueStep([batch()], { step: 0, learningRate: 0.01 }));
    expect(metrics.loss).toBeGreaterThan(0);
    for (const embed of [async () => new Float32Array(3), async () => [1, 2]]) {
      using wrong = new api.Distiller({ device, teacher: { ...teacher, embed } as Anything, student, tsb, config });
      await refused('BAD_SHAPE', 'teacher', {
        embed: () => wrong.queueStep([batch()], { step: 0, learningRate: 0.1 }),
      });
    }
    const run = (own: Anything) => async () => {
      using wrong = new api.Distiller({
        device,
        teacher: own,
        student,
        tsb,
        config: { ...config, output: join(folder, 'own-answers') },
      });
      for await (const event of wrong.run(images)) expect(event.type).not.toBe('step');
    };
    const table = { ...teacher, kind: 'precomputed', has: () => true };
    await refused('BAD_SHAPE', 'teacher', {
      promise: run({ ...table, lookup: async (ids: string[]) => new Float32Array(ids.length * size) }),
      nothing: run({ ...table, lookup: () => undefined }),
    });
    const thrower = () => {
      throw 'gone';
    };
    await refused('BAD_MODEL', 'teacher', {
      lookup: run({ ...table, lookup: thrower }),
      fingerprint: run({ ...teacher, fingerprint: thrower }),
      unmarked: run({ ...teacher, fingerprint: async () => undefined }),
    });
  });
});

describe('images of a caller', () => {
  const source = (more: object) => ({ root: 'mine', ids: ['a', 'b'], read: async () => picture, ...more });
  const build = (more: object) => js.ImageCache.build(source(more), options(device));

  it('come as bytes of any kind that a file is read into', async () => {
    using cache = await build({ read: async () => new Uint8Array(picture) });
    expect(cache.length).toBe(2);
    await refused('BAD_OPTION', 'bytes', {
      text: () => build({ read: async () => 'bytes' }),
      buffer: () => build({ read: async () => new ArrayBuffer(3) }),
      nothing: () => build({ read: async () => undefined }),
    });
    const { message } = await refusal(() => build({ read: async (i: number) => (i === 1 ? undefined : picture) }));
    expect(message).toContain('what was read for b is not');
  });

  it('come from a source that has all it must', async () => {
    const wrong = { ids: new Set(['a']), read: 5, places: Int32Array.of(0), labels: null };
    for (const [option, value] of Object.entries(wrong))
      await refused('BAD_DATASET', option, { build: () => build({ [option]: value }) });
    const { message } = await refusal(() => build({ ids: null }));
    expect(message).toContain('this has no ids');
  });

  it('are prepared by a data set whose answers are looked at', async () => {
    const prepared: [what: string, prepare: (images: Int32Array) => unknown, words: string][] = [
      ['nothing', () => undefined, "prepare() of the data set did not give a batch's pixels"],
      ['no release', () => ({ store: images.store }), "prepare() of the data set did not give a batch's pixels"],
      [
        'too few',
        (indices) => ({ ...images.prepare(indices), shown: Int32Array.of(0) }),
        "prepare() of the data set did not give a batch's pixels",
      ],
      [
        'a text',
        () => {
          throw 'gone';
        },
        'the data set threw something that is no error. Found: "gone"',
      ],
      ['undefined', () => Promise.reject(), 'the data set threw undefined'],
    ];
    for (const [what, prepare, words] of prepared) {
      using own = new api.Distiller({
        device,
        teacher,
        student,
        tsb,
        config: { ...config, output: join(folder, `prepared ${what}`) },
      });
      const { length, ids, sourceIndex, store } = images;
      const run = async () => {
        for await (const event of own.run({ length, ids, sourceIndex, store, prepare } as Anything))
          expect(event.type).not.toBe('step');
      };
      const { code, option, message } = await refusal(run);
      expect({ code, option, message }, what).toEqual({
        code: 'BAD_DATASET',
        option: 'dataset',
        message: expect.stringContaining(words) as string,
      });
    }
  });

  it('have labels that fit', async () => {
    await refused('BAD_DATASET', 'labels', {
      few: () => build({ labels: Int32Array.of(0), classNames: ['x'] }),
      outside: () => build({ labels: Int32Array.of(0, 1), classNames: ['x'] }),
      unnamed: () => build({ labels: Int32Array.of(0, 0) }),
    });
  });

  it('come as a stream, not as its generator', async () => {
    await refused('BAD_DATASET', undefined, {
      generator: () =>
        js.ImageCache.fromStream(async function* () {
          yield undefined;
        }, options(device)),
      object: () => js.ImageCache.fromStream({}, options(device)),
      nothing: () => js.ImageCache.fromStream([null], options(device)),
      unnamed: () => js.ImageCache.fromStream([{ bytes: picture }], options(device)),
      buffers: () => js.imagesFromBuffers({}),
      noBytes: () => js.imagesFromBuffers([{ id: 'a' }]),
    });
  });

  it('are seen as evaluations see them by their indices alone', async () => {
    const view = { device, resolution: 32, mean: teacher.mean, std: teacher.std };
    const some = Int32Array.of(1, 2);
    const drawn = await api.readViews(
      images,
      { images: some, drawIds: some, seed: 3, epoch: 4 },
      { ...view, augment: false },
    );
    expect(await api.readViews(images, { images: some }, { ...view, augment: false })).toEqual(drawn);
    await refused('BAD_OPTION', 'batch', { augmented: () => api.readViews(images, { images: some }, view) });
    await refused('BAD_OPTION', 'mean', {
      missing: () => js.readViews(images, { images: some }, { device, resolution: 32, augment: false }),
    });
  });
});
