/** Names of options that a call does not know. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
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
  picture,
  prepareCalls,
  refusal,
  refused,
  size,
  student,
  teacher,
  tsb,
} from '../fixtures/calls.js';

prepareCalls();

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
    ['positions()', (more) => encoder().positions(encoder().images, 'p', { count: 4, ...more })],
    ['selfAttention()', (more) => encoder().selfAttention(encoder().images, 1, more)],
    ['rotary()', (more) => encoder().rotary(encoder().images, 'a', { heads: 1, count: 4, ...more })],
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
  });

  it('is as good as not given where it is known, and undefined', async () => {
    const found = await api.openDevice('cpu', { threads: undefined });
    expect(found.info.threads).toBeGreaterThan(0);
    found.dispose();
    const without = (...unknown: string[]) => Object.fromEntries(unknown.map((option) => [option, undefined]));
    const graph = (ofBuilder: object, ofConv: object, ofLinear: object) => {
      const g = new api.GraphBuilder('small', ofBuilder);
      const x = g.conv(g.images, 'conv', { channels: 4, ...ofConv });
      return g.finish(g.linear(g.globalPool(x), 'head', { features: 4, ...ofLinear }));
    };
    const ofConv = ['kernel', 'stride', 'padding', 'dilation', 'groups', 'bias', 'init', 'biasInit', 'shared'];
    expect(graph(without('norm', 'dropping', 'start'), without(...ofConv), without('bias', 'init'))).toEqual(
      graph({}, {}, {}),
    );
    const encoderOptions = ['batch', 'precision', 'seed', 'dropping', 'training', 'optimizer', 'widthMultiplier'];
    const pixels = new Float32Array(3 * 64 * 64).fill(0.5);
    const outputs = await Promise.all(
      [{}, without(...encoderOptions)].map(async (more) => {
        using encoder = await api.createEncoder('resnet18', { device, outputs: 4, resolution: 64, ...more });
        return encoder.forward(pixels, without('training', 'seed', 'step', 'signal'));
      }),
    );
    expect(outputs[1]).toEqual(outputs[0]);
    using cache = await api.ImageCache.build(
      { ...api.imagesFromBuffers([{ id: 'a', bytes: picture, label: undefined }]), ...without('pack', 'sequential') },
      { ...options(device), ...without('background', 'readPauses', 'margin', 'spillFolder') },
    );
    expect(cache.length).toBe(1);
    const views = await api.readViews(
      cache,
      { images: Int32Array.of(0), drawIds: Int32Array.of(0), seed: 0, epoch: 0 },
      { device, resolution: 32, mean: [0, 0, 0], std: [1, 1, 1], ...without('augment') },
    );
    expect(views).toHaveLength(3 * 32 * 32);
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
      sources.flatMap((text) => [...text.matchAll(/\b[oO]ptionTable<(\w+)>/gu)].map(([, type]) => type!)),
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
