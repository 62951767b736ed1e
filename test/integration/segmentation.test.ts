import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { putPixels } from '../../lib/dense/pixels.js';
import { evaluateSegmentation, trainSegmentation, type SegmentationEvent } from '../../lib/dense/segmentation.js';
import { Segmenter } from '../../lib/dense/segmenter.js';
import { evaluateZeroShotSegmentation } from '../../lib/dense/zero-shot.js';
import { openDevice } from '../../lib/device.js';
import { drawnImages } from '../../lib/export/compare.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { denseProjectionGraph, denseProjectionWeights } from '../../lib/models/heads/dense-projection.js';
import { graphOf, studentGraph } from '../../lib/models/student.js';
import { readDense } from '../../lib/runs/network-file.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { encodePng } from '../fixtures/png.js';
import { relativeError } from '../fixtures/semantic/cases.js';
import { madeUpStudent, untrainedStudent, writeMadeUpStudent } from '../fixtures/student.js';
import { drawScenes, sceneClasses } from '../fixtures/scenes.js';
import { andAll } from '../shared.js';

let folder: string;
let scenes: string;
let student: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgdistill-segmentation-'));
  scenes = await drawScenes(join(folder, 'scenes'), { count: 4, sizes: [[64, 64]] });
  await drawScenes(join(folder, 'ignored'), { count: 1, sizes: [[1, 1]] }); // the last row of a mask does not count
  student = await untrainedStudent(join(folder, 'student.safetensors'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const dense = {
  resolution: 128,
  batchSize: 4,
  maxSteps: 1,
  learningRate: 0.1,
  scaleMin: 1,
  scaleMax: 1,
  everyEpochs: 0,
};

async function run(options: Parameters<typeof trainSegmentation>[0]): Promise<SegmentationEvent[]> {
  const events: SegmentationEvent[] = [];
  for await (const event of trainSegmentation(options)) events.push(event);
  return events;
}

describe('a segmentation head learns a few images by heart', () => {
  it.each(
    andAll<['lraspp' | 'fcn', 8 | 16, number]>(
      'heads at output stride 16 that learn images by heart',
      [['lraspp', 8, 80]],
      [
        ['lraspp', 16, 80],
        ['fcn', 16, 140],
      ],
    ),
  )('%s at output stride %i, to an mIoU above 0.95', async (head, outputStride, maxSteps) => {
    const output = join(folder, `${head}-${outputStride}`);
    const config = {
      device: 'cpu',
      seed: 1,
      dense: { ...dense, data: scenes, evaluationData: scenes, head, outputStride, maxSteps },
    };
    const begun = performance.now();
    const events = await run({ student, output, config });
    console.log(
      `${head} at output stride ${outputStride}: ${((performance.now() - begun) / 1000).toFixed(1)} s, ${events.flatMap((event) => (event.type === 'step' ? [event.loss.toFixed(3)] : [])).join(' ')}`,
    );
    const last = events.at(-1)!;
    if (last.type !== 'done') throw new Error('it did not end');
    expect(last.score!.meanIou).toBeGreaterThan(0.95);
    const score = await evaluateSegmentation({ model: output, config });
    expect(score).toEqual(last.score);
    expect(score.classes.map(({ name }) => name)).toEqual(sceneClasses);
    expect(score.pixels).toBe(4 * 64 * 63); // the last row of each mask does not count
    const sliding = await evaluateSegmentation({
      model: output,
      config: { ...config, dense: { ...config.dense, inference: 'sliding' } },
    });
    expect(sliding).toEqual(score); // squares are one window
    using device = await openDevice('cpu');
    using segmenter = await Segmenter.load(output, { device });
    const { width, height, labels } = await segmenter.segment(await readFile(join(scenes, 'images', '0.png')), {
      inference: 'sliding',
    });
    expect([width, height, labels.length]).toEqual([64, 64, 64 * 64]);
  });
});

describe('segmentation', () => {
  it.each(['mobilenet_v2', 'mobilenet_v3_small', 'mobilenetv4_conv_small'])(
    "where the last map of %s has one position, its embedding there is the student's",
    async (name) => {
      using device = await openDevice('cpu');
      const { info, weights } = madeUpStudent(name, { widthMultiplier: 0.35 });
      const graph = graphOf(info);
      const embed = async (network: typeof graph, its: typeof weights) => {
        const compiled = new CompiledEncoder(device, network, { batch: 2, resolution: 32, training: false });
        using encoder = new Encoder(compiled);
        compiled.load(its);
        return encoder.forward(drawnImages(32, 2));
      };
      const dense = denseProjectionGraph(graph, 32);
      expect(
        relativeError(await embed(dense, denseProjectionWeights(dense, weights)), await embed(graph, weights)),
      ).toBeLessThan(1e-5);
    },
  );

  it('by the text bank alone gives each pixel the name whose text is nearest, of scores between the positions', async () => {
    const { graph, weights, info } = await plainStudent();
    const D = info.embeddingSize;
    using device = await openDevice('cpu');
    const scene = await readFile(join(scenes, 'images', '1.png'));
    using network = new CompiledEncoder(device, denseProjectionGraph(graph, 16), {
      batch: 1,
      resolution: 64,
      training: false,
    });
    network.load(denseProjectionWeights(network.graph, weights));
    const images = network.makeImages();
    const pixels = new Float32Array(3 * 64 * 64);
    putPixels(
      await sharp(scene).removeAlpha().raw().toBuffer(),
      pixels,
      { width: 64, height: 64, flip: false },
      { resolution: 64, mean: info.mean, std: info.std },
    );
    device.addon.writeImages(images, pixels);
    network.forwardTensor(images);
    const map = await device.addon.readTensor(network.output); // [4, 4, D]
    device.addon.release(images);
    const at = (position: number) => map.subarray(position * D, (position + 1) * D);
    // names whose text lies where three positions lie
    const rows = Float32Array.from([0, 6, 13].flatMap((position) => Array.from(at(position))));
    const cosine = (a: Float32Array, b: Float32Array) =>
      a.reduce((sum, value, d) => sum + value * b[d]!, 0) / Math.hypot(...a) / Math.hypot(...b);
    const scoreOf = (x: number, y: number, k: number) => {
      const axis = (value: number) => Math.min(Math.max((value + 0.5) / 16 - 0.5, 0), 3);
      const [u, v] = [axis(x), axis(y)];
      let sum = 0;
      for (let row = 0; row < 4; row++)
        for (let column = 0; column < 4; column++)
          sum +=
            Math.max(0, 1 - Math.abs(u - column)) *
            Math.max(0, 1 - Math.abs(v - row)) *
            cosine(at(4 * row + column), rows.subarray(k * D, (k + 1) * D));
      return sum;
    };
    using segmenter = Segmenter.zeroShot(
      { graph, weights, info },
      TextualSemanticsBank.fromEmbeddings(sceneClasses, rows, { encoderId: 'made up' }),
      { device, outputStride: 16, resolution: 64 },
    );
    const { labels } = await segmenter.segment(scene);
    let alike = 0;
    for (let y = 0; y < 64; y += 3) {
      for (let x = 0; x < 64; x += 3) {
        const scores = [0, 1, 2].map((k) => scoreOf(x, y, k));
        if (scores.indexOf(Math.max(...scores)) === labels[64 * y + x]) alike++;
      }
    }
    expect(alike).toBeGreaterThanOrEqual(22 * 22 - 1); // but for a tie
    expect(new Set(labels).size).toBe(3);

    // and as a command would: a folder, a bank, a score
    const file = join(folder, 'bank.safetensors');
    await TextualSemanticsBank.fromEmbeddings(sceneClasses, rows, { encoderId: 'made up' }).save(file);
    const score = await evaluateZeroShotSegmentation({
      student,
      config: { device: 'cpu', bank: file, dense: { data: scenes, resolution: 64 } },
    });
    expect(score.classes.map(({ name }) => name)).toEqual(sceneClasses);
    expect([score.images, score.pixels]).toEqual([4, 4 * 64 * 63]);
    const other = join(folder, 'other.safetensors');
    await TextualSemanticsBank.fromEmbeddings(['x', 'y', 'z'], rows, { encoderId: 'made up' }).save(other);
    await expect(
      evaluateZeroShotSegmentation({
        student,
        config: { device: 'cpu', bank: other, dense: { data: scenes, resolution: 64 } },
      }),
    ).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'textEncoder',
      message: expect.stringContaining(`the bank lacks ${sceneClasses.map((name) => `"${name}"`).join(', ')}`),
    });
    const vit = join(folder, 'vit.safetensors');
    await writeMadeUpStudent(vit, 'vit_tiny_patch16_224', { resolution: 32 });
    await expect(
      evaluateZeroShotSegmentation({
        student: vit,
        config: { device: 'cpu', bank: other, dense: { data: scenes, resolution: 64 } },
      }),
    ).rejects.toMatchObject({ code: 'BAD_MODEL', message: expect.stringContaining('does not pool a map') });
  });

  it.each([
    ['no folder', { data: undefined }, 'BAD_CONFIG', 'dense.data'],
    ['a side that is no multiple of 32', { resolution: 100 }, 'BAD_OPTION', 'dense.resolution'],
    ['an output stride that is not there', { outputStride: 12 }, 'BAD_OPTION', 'dense.outputStride'],
    ['a split that is not there', { layout: 'cityscapes' as const }, 'FILE_NOT_FOUND', undefined],
    ['more images a batch than there are', { batchSize: 5 }, 'BAD_DATASET', 'dense.batchSize'],
    ['a part that is not there', { split: 'tran' }, 'FILE_NOT_FOUND', 'dense.split'],
    [
      'another that is not there',
      { evaluationData: 'scenes', evaluationSplit: 'tset' },
      'FILE_NOT_FOUND',
      'dense.evaluationSplit',
    ],
    ['masks without a class', { evaluationData: 'ignored' }, 'BAD_DATASET', 'dense.evaluationData'],
  ])('with %s is refused', async (_, change, code, option) => {
    const held = 'evaluationData' in change && { evaluationData: join(folder, change.evaluationData) };
    const config = { device: 'cpu', dense: { ...dense, data: scenes, ...change, ...held } };
    await expect(trainSegmentation({ student, output: join(folder, 'refused'), config }).next()).rejects.toMatchObject({
      code,
      ...(option !== undefined && { option }),
    });
  });

  it('of a list that names files that are not there is refused, and a mask of another size leaves what was trained', async () => {
    const voc = join(folder, 'voc');
    for (const name of ['JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'])
      await mkdir(join(voc, name), { recursive: true });
    await writeFile(join(voc, 'JPEGImages/1.jpg'), '');
    for (const split of ['train', 'val']) await writeFile(join(voc, `ImageSets/Segmentation/${split}.txt`), '1\n');
    await expect(
      trainSegmentation({
        student,
        output: join(folder, 'refused'),
        config: { device: 'cpu', dense: { ...dense, data: voc } },
      }).next(),
    ).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'dense.data',
      message: expect.stringContaining(
        '1 of the 2 files that ImageSets/Segmentation/train.txt names is not in',
      ) as unknown,
    });

    const held = await drawScenes(join(folder, 'held-out'), { count: 2, sizes: [[64, 64]] });
    await writeFile(
      join(held, 'masks/1.png'),
      encodePng({ width: 8, height: 8, bits: 8, colour: 3, values: new Uint8Array(64) }),
    );
    const output = join(folder, 'wrong-mask');
    await expect(
      run({
        student,
        output,
        config: { device: 'cpu', dense: { ...dense, resolution: 64, data: scenes, evaluationData: held } },
      }),
    ).rejects.toMatchObject({ code: 'BAD_DATASET', message: expect.stringContaining('8 x 8') as unknown });
    for (const file of ['last.safetensors', 'model.safetensors'])
      expect((await readDense(join(output, file), 'segmentation')).info.step).toBe(1);
  });

  it("stopped keeps its weights, and another class list than the network's is refused", async () => {
    const stop = new AbortController();
    const output = join(folder, 'stopped');
    const stopped = trainSegmentation({
      student,
      output,
      config: { device: 'cpu', log: { everySteps: 1 }, dense: { ...dense, maxSteps: 5, resolution: 64, data: scenes } },
      signal: stop.signal,
    });
    expect((await stopped.next()).value).toMatchObject({ type: 'start', evaluationImages: 0, layout: 'pairs' });
    expect((await stopped.next()).value).toMatchObject({ type: 'step', step: 1 });
    stop.abort();
    await expect(stopped.next()).rejects.toMatchObject({ code: 'ABORTED' });
    const config = { device: 'cpu', dense: { data: scenes } };
    expect((await evaluateSegmentation({ model: output, config })).images).toBe(4);
    await expect(
      evaluateSegmentation({ model: output, config: { ...config, names: ['a', 'b', 'c'] } }),
    ).rejects.toMatchObject({ code: 'CLASS_MISMATCH' });
    await expect(evaluateSegmentation({ model: student, config })).rejects.toMatchObject({ code: 'BAD_MODEL' });
    await expect(
      trainSegmentation({ student, output, config: { device: 'cpu', dense: { ...dense, data: scenes } } }).next(),
    ).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
  });
});

/** Without the head's biases, which would drown what an untrained network tells apart. */
async function plainStudent() {
  const { info, weights } = await readStudent(student);
  for (const name of ['head.0.bias', 'head.2.bias']) weights[name]!.data.fill(0);
  return {
    info,
    weights,
    graph: studentGraph(info.architecture, {
      embeddingSize: info.embeddingSize,
      widthMultiplier: info.widthMultiplier,
      dropping: false,
    }),
  };
}
