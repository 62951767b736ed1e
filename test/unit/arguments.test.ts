/**
 * Calls as programs without types make them: each is refused in words that name the argument, before anything is
 * computed with it.
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LgdError } from '../../lib/errors.js';
import * as api from '../../lib/index.js';
import {
  batch,
  device,
  distiller,
  folder,
  images,
  js,
  names,
  options,
  prepareCalls,
  refusal,
  refused,
  size,
  student,
  teacher,
  tsb,
  type Anything,
} from '../fixtures/calls.js';
import { tinyClip } from '../fixtures/tiny.js';

prepareCalls();

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
