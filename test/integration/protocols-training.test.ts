/** What is evaluated while a student trains: protocols on frozen features, and the online probe. */
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { openDevice } from '../../lib/device.js';
import { embedImages, encoderEmbedder } from '../../lib/evaluate/embed.js';
import { OnlineProbe } from '../../lib/evaluate/online.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { CompiledEncoder, studentGraph } from '../../lib/models/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';
import { madeUpStudent } from '../fixtures/student.js';
import { drawShapes, ofType, sameBits, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const widthMultiplier = 0.35;

beforeAll(async () => {
  await drawShapes(at('train'), { count: 12, telling: true });
  await drawShapes(at('test'), { count: 5, seed: 2, telling: true });
});

test('while training every few steps, and the best is chosen by one of them', async () => {
  const config = smallConfig(at('train'), at('run'), {
    train: { epochs: 1, batchSize: 8, warmupEpochs: 0 },
    checkpoint: { everyEpochs: 0 },
    evaluate: {
      data: at('test'),
      train: at('train'),
      also: 'both',
      metric: 'knn',
      everySteps: 2,
      everyEpochs: 0,
      neighbours: 5,
      probeEpochs: 3,
    },
  });
  const { events } = await train(config);
  const evaluations = ofType(events, 'evaluation');
  expect(evaluations.map(({ step }) => step)).toEqual([2, 4, 6]);
  for (const { knn, linear } of evaluations)
    for (const score of [knn, linear]) expect(score).toMatchObject({ images: 20, classes: 4 });
  const best = evaluations.reduce((a, b) => (b.knn!.top1 > a.knn!.top1 ? b : a));
  expect(ofType(events, 'done')[0]!.best).toEqual({ metric: 'knn', value: best.knn!.top1, step: best.step });
  // The same protocol on the checkpoint, apart from the run, finds the same.
  const apart = await evaluateProtocol({
    student: at('run', 'checkpoints', 'last'),
    protocol: 'knn',
    config: { device: 'cpu', evaluate: { data: at('test'), train: at('train'), output: at('apart'), neighbours: 5 } },
  });
  expect(apart.results[0]!.score).toEqual(evaluations.at(-1)!.knn);
});

describe('online probe', () => {
  const config = (output: string, more: object = {}) =>
    smallConfig(at('train'), output, {
      train: { epochs: 3, batchSize: 8, warmupEpochs: 0 },
      evaluate: { data: at('test'), online: true, metric: 'online', everyEpochs: 1, ...more },
    });
  let whole: Awaited<ReturnType<typeof train>>;
  beforeAll(async () => {
    whole = await train(config(at('online')));
  });

  test('learns beside the student, which does not notice', async () => {
    const evaluations = ofType(whole.events, 'evaluation');
    expect(evaluations.map(({ step }) => step)).toEqual([6, 12, 18]);
    expect(evaluations.at(-1)!.online).toMatchObject({ images: 20, classes: 4 });
    expect(ofType(whole.events, 'done')[0]!.best).toMatchObject({
      metric: 'online',
      value: Math.max(...evaluations.map(({ online }) => online!.top1)),
    });
    const without = await train(config(at('without'), { online: false, metric: 'auto' }));
    for (const [name, values] of Object.entries(without.weights))
      expect(sameBits(values, whole.weights[name]!), name).toBe(true);
  });

  test('its weights are those of plain loops over the embeddings that the student had', async () => {
    const [dimension, classes, batch] = [6, 3, 4];
    using device = await openDevice('cpu');
    using probe = new OnlineProbe(device, dimension, classes);
    const [w, v] = [new Float64Array(classes * (dimension + 1)), new Float64Array(classes * (dimension + 1))];
    const embeddings = device.addon.makeTensor(device.handle, [batch, dimension]);
    for (let step = 0; step < 3; step++) {
      const rows = randomNormal(batch * dimension, step + 1);
      const labels = Int32Array.from({ length: batch }, (_, i) => (i + step) % classes);
      device.addon.writeTensor(embeddings, rows);
      probe.learn(embeddings, labels);
      const g = new Float64Array(w.length);
      for (let i = 0; i < batch; i++) {
        const raw = [...rows.subarray(i * dimension, (i + 1) * dimension)];
        const x = [...raw.map((value) => value / Math.hypot(...raw)), 1];
        const logits = Array.from({ length: classes }, (_, k) =>
          x.reduce((sum, value, d) => sum + value * w[k * (dimension + 1) + d]!, 0),
        );
        const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
        logits.forEach((logit, k) =>
          x.forEach(
            (value, d) =>
              (g[k * (dimension + 1) + d]! += ((Math.exp(logit) / total - (k === labels[i] ? 1 : 0)) * value) / batch),
          ),
        );
      }
      w.forEach((_, i) => {
        v[i] = 0.9 * v[i]! + g[i]!;
        w[i]! -= v[i]!;
      });
    }
    const { weights, bias } = await probe.state();
    expect(
      relativeError(
        weights,
        w.filter((_, i) => i % (dimension + 1) < dimension),
      ),
    ).toBeLessThan(1e-5);
    expect(
      relativeError(
        bias,
        w.filter((_, i) => i % (dimension + 1) === dimension),
      ),
    ).toBeLessThan(1e-5);
    device.addon.release(embeddings);
  });

  test('is judged by the embeddings of centre crops', async () => {
    using device = await openDevice('cpu');
    const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier, resolution: 32 });
    using encoder = new CompiledEncoder(device, studentGraph('mobilenet_v2', { embeddingSize: 24, widthMultiplier }), {
      batch: 7,
      resolution: 32,
      training: false,
    });
    encoder.load(weights);
    using images = await ImageCache.build(await openImageFolder(at('test'), { labels: 'folders' }), {
      device,
      resolution: 32,
      margin: 1,
      memoryLimitBytes: 2 ** 26,
      spillFolder: folder,
      maxBrokenShare: 0,
    });
    const [w, bias] = [randomNormal(4 * 24, 3), randomNormal(4, 4).map((value) => 0.1 * value)];
    const { mean, std } = info;
    const embeddings: number[][] = [];
    using embedder = encoderEmbedder(encoder);
    await embedImages(
      embedder,
      { device, images, mean, std, what: 'the test' },
      (rows) =>
        void embeddings.push(
          ...Array.from({ length: rows.length / 24 }, (_, i) => [...rows.subarray(24 * i, 24 * i + 24)]),
        ),
    );
    const right = embeddings.filter((row, i) => {
      const logits = Array.from(
        bias,
        (b, k) => row.reduce((sum, value, d) => sum + value * w[24 * k + d]!, 0) / Math.hypot(...row) + b,
      );
      return logits.indexOf(Math.max(...logits)) === images.labels![i];
    }).length;
    using probe = new OnlineProbe(device, 24, 4);
    probe.restore({ weights: w, bias, weightsMomentum: w.map(() => 0), biasMomentum: bias.map(() => 0) });
    expect(await probe.evaluate(encoder, { images, labels: images.labels!, mean, std })).toMatchObject({
      correct1: right,
      images: 20,
      classes: 4,
    });
    expect(right).toBeGreaterThan(0);
  });

  test('goes on after a stop as if there had been none', async () => {
    const controller = new AbortController();
    await train(config(at('stopped')), {
      signal: controller.signal,
      onEvent: (event) => {
        if (event.type === 'step' && event.step === 8) controller.abort();
      },
    });
    const { events } = await train(config(at('stopped')), { resume: 'last' });
    expect(ofType(events, 'evaluation').at(-1)!.online).toEqual(ofType(whole.events, 'evaluation').at(-1)!.online);
    const state = async (run: string) =>
      (await readSafetensors(at(run, 'checkpoints', 'last', 'state.safetensors'))).tensors.get('online.weights')!
        .data as Float32Array;
    expect((await state('online')).some((value) => Math.abs(value) > 0.01)).toBe(true);
    expect(sameBits(await state('stopped'), await state('online'))).toBe(true);
  });

  test('needs class folders, of the same names', async () => {
    await drawShapes(at('odd'), { count: 2, telling: true });
    renameSync(at('odd', 'cross'), at('odd', 'plus'));
    await expect(
      train({
        ...config(at('refused')),
        evaluate: {
          data: at('odd'),
          online: true,
          mapping: undefined,
          names: ['circle', 'square', 'triangle', 'plus'],
        },
      }),
    ).rejects.toMatchObject({ code: 'CLASS_MISMATCH', option: 'evaluate.online' });
  });
});
