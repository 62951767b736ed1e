import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ConfusionCounts } from '../../lib/dense/intersection.js';
import { labelMap, slidingParts, type ScoredWindow } from '../../lib/dense/label-map.js';
import { drawView, putPixels, wholeView } from '../../lib/dense/pixels.js';
import { denseRate } from '../../lib/dense/trainer.js';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { listStudents } from '../../lib/models/index.js';
import { dilate, lastMap, mapGraph, stagesOf, unpooledGraph } from '../../lib/models/stages.js';
import { studentGraph } from '../../lib/models/student.js';
import type { StudentFamily } from '../../lib/models/students/definition.js';
import { findStudent } from '../../lib/models/students/registry.js';
import { readDense } from '../../lib/runs/network-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNumbers } from '../fixtures/random.js';

describe('stages', () => {
  const withMaps = listStudents().filter((name) => findStudent(name).patch === undefined);
  const ofFamilies: Record<
    Exclude<StudentFamily, 'vit'>,
    [student: string, stages: [stride: number, channels: number][]]
  > = {
    resnet: [
      'resnet18',
      [
        [2, 64],
        [4, 64],
        [8, 128],
        [16, 256],
        [32, 512],
      ],
    ],
    mobilenet_v2: [
      'mobilenet_v2',
      [
        [2, 16],
        [4, 24],
        [8, 32],
        [16, 96],
        [32, 1280],
      ],
    ],
    mobilenet_v3: [
      'mobilenet_v3_large',
      [
        [2, 16],
        [4, 24],
        [8, 40],
        [16, 112],
        [32, 960],
      ],
    ],
    mobilenet_v4: [
      'mobilenetv4_conv_small',
      [
        [2, 32],
        [4, 32],
        [8, 64],
        [16, 96],
        [32, 960],
      ],
    ],
    convnext: [
      'convnext_atto',
      [
        [4, 40],
        [8, 80],
        [16, 160],
        [32, 320],
      ],
    ],
    efficientnet: [
      'efficientnet_b0',
      [
        [2, 16],
        [4, 24],
        [8, 40],
        [16, 112],
        [32, 1280],
      ],
    ],
    efficientnet_v2: [
      'efficientnet_v2_s',
      [
        [2, 24],
        [4, 48],
        [8, 64],
        [16, 160],
        [32, 1280],
      ],
    ],
    tf_efficientnetv2: [
      'tf_efficientnetv2_b0',
      [
        [2, 16],
        [4, 32],
        [8, 48],
        [16, 112],
        [32, 1280],
      ],
    ],
    efficientnet_lite: [
      'efficientnet_lite0',
      [
        [2, 16],
        [4, 24],
        [8, 40],
        [16, 112],
        [32, 1280],
      ],
    ],
  };
  it.each(Object.values(ofFamilies))('of %s are the last blocks at each stride', (name, expected) => {
    expect(
      stagesOf(mapGraph(studentGraph(name, { embeddingSize: 8 }))).map(({ stride, value }) => [stride, value.channels]),
    ).toEqual(expected);
  });

  it.each(withMaps)('of %s are at every stride', (name) => {
    const strides = stagesOf(mapGraph(studentGraph(name, { embeddingSize: 8 }))).map(({ stride }) => stride);
    expect(strides, `stagesOf in lib/models/stages.ts knows the blocks of ${name} by their names`).toEqual(
      name.startsWith('convnext') ? [4, 8, 16, 32] : [2, 4, 8, 16, 32],
    );
  });

  it.each([8, 16])('a ConvNeXt does not take output stride %i', (outputStride) => {
    const graph = mapGraph(studentGraph('convnext_atto', { embeddingSize: 8 }));
    expect(() => dilate(graph, outputStride)).toThrow(
      expect.objectContaining({
        code: 'BAD_OPTION',
        option: 'outputStride',
        allowed: '32, its own',
        mend: expect.stringContaining('32 (dense.outputStride)') as string,
      }),
    );
  });

  it.each([8, 16, 32])('every other student takes output stride %i', (outputStride) => {
    for (const name of withMaps.filter((one) => outputStride === 32 || !one.startsWith('convnext'))) {
      const graph = mapGraph(studentGraph(name, { embeddingSize: 8 }));
      const fine = dilate(graph, outputStride);
      const strides = fine.nodes
        .filter(({ op }) => op === 'conv' || op === 'maxPool')
        .map(({ attributes }) => Number(attributes!['stride'] ?? 1));
      const largest = stagesOf(fine).at(-1)!.stride;
      expect(largest, `${name} ${strides.join()}`).toBe(outputStride);
      expect(lastMap(fine)).toEqual(lastMap(graph));
      expect(fine.parameters).toEqual(graph.parameters);
    }
  });

  it.each([mapGraph, unpooledGraph])(
    'are missing of a vision transformer: %o names the students that have them',
    (maps) => {
      expect(() => maps(studentGraph('vit_tiny_patch16_224', { embeddingSize: 8 }))).toThrow(
        expect.objectContaining({ code: 'BAD_MODEL', allowed: withMaps.join(', ') }),
      );
    },
  );

  it('cannot dilate a pool', () => {
    expect(() => dilate(mapGraph(studentGraph('resnet18', { embeddingSize: 8 })), 2)).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'outputStride' }),
    );
  });
});

describe('a label map', () => {
  const window = (
    part: ScoredWindow['part'],
    rows: number,
    columns: number,
    scores: number[],
    stride = 8,
    scale = 1,
  ): ScoredWindow => ({ part, scaleX: scale, scaleY: scale, stride, rows, columns, scores: Float32Array.from(scores) });

  it('interpolates scores between the middles of positions', async () => {
    // two positions 8 pixels wide: class 1 leads by 4 in the left, class 0 by 4 in the right one: even in the middle,
    // at 8 pixels
    const labels = await labelMap([window({ x: 0, y: 0, width: 16, height: 8 }, 1, 2, [0, 4, 4, 0])], {
      width: 16,
      height: 8,
      classes: 2,
    });
    expect(Array.from(labels.subarray(0, 16))).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect(Array.from(labels.subarray(112))).toEqual(Array.from(labels.subarray(0, 16)));
  });

  it('sums windows where they overlap, at any scale', async () => {
    const left = window({ x: 0, y: 0, width: 8, height: 4 }, 1, 1, [1, 0], 16, 2);
    const right = window({ x: 4, y: 0, width: 8, height: 4 }, 1, 1, [0, 3], 16, 2);
    const labels = await labelMap([left, right], { width: 12, height: 4, classes: 2 });
    expect(Array.from(labels.subarray(0, 12))).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
  });

  it('slides squares over the whole image', () => {
    for (const [width, height] of [
      [100, 100],
      [2048, 1024],
      [500, 375],
      [90, 300],
      [1000, 10],
    ] as const) {
      const parts = slidingParts({ width, height });
      const side = Math.min(width, height);
      expect(parts.every(({ width: w, height: h }) => w === side && h === side)).toBe(true);
      const starts = parts.map(({ x, y }) => x + y);
      expect([starts[0], starts.at(-1)]).toEqual([0, Math.max(width, height) - side]);
      for (let i = 1; i < starts.length; i++)
        expect(starts[i]! - starts[i - 1]!).toBeLessThanOrEqual((2 / 3) * side + 1);
    }
  });

  it('stops when asked to', async () => {
    const wide = window({ x: 0, y: 0, width: 3000, height: 900 }, 1, 1, [1, 0]);
    await expect(labelMap([wide], { width: 3000, height: 900, classes: 2 }, AbortSignal.abort())).rejects.toMatchObject(
      { code: 'ABORTED' },
    );
  });
});

describe('mean intersection over union', () => {
  it('of a case worked by hand', () => {
    const counts = new ConfusionCounts(['a', 'b', 'c', 'never']);
    counts.add(Int16Array.from([0, 0, 0, 1, 1, -1]), Int16Array.from([0, 0, 1, 1, 2, 3]));
    const score = counts.score();
    // a: 2 of 3; b: 1 of 3 (two of it, and one of a taken for it); c: 0 of 1; the last class is nowhere
    expect(score.classes.map(({ iou }) => iou)).toEqual([2 / 3, 1 / 3, 0, null]);
    expect(score.meanIou).toBeCloseTo(1 / 3, 12);
    expect(score.pixelAccuracy).toBeCloseTo(3 / 5, 12);
    expect(score.meanAccuracy).toBeCloseTo((2 / 3 + 1 / 2) / 2, 12);
    expect([score.pixels, score.images]).toEqual([5, 1]);
  });

  it('is none where no pixel counts', () => {
    const counts = new ConfusionCounts(['a', 'b']);
    counts.add(Int16Array.from([-1, -1]), Int16Array.from([0, 1]));
    expect(counts.score()).toMatchObject({
      meanIou: null,
      pixelAccuracy: null,
      meanAccuracy: null,
      pixels: 0,
      images: 1,
    });
  });
});

describe('views', () => {
  it('lie in the image, fit the input and keep their scale', () => {
    const random = randomNumbers(1);
    for (let i = 0; i < 500; i++) {
      const image = { width: 1 + Math.floor(700 * random()), height: 1 + Math.floor(700 * random()) };
      const { part, width, height } = drawView(
        image,
        128,
        { scaleMin: 0.5, scaleMax: 2, flipProbability: 0.5 },
        random,
      );
      expect(
        part.x >= 0 && part.y >= 0 && part.x + part.width <= image.width && part.y + part.height <= image.height,
      ).toBe(true);
      expect(width >= 1 && height >= 1 && width <= 128 && height <= 128).toBe(true);
      const covers = Math.max(width, height) >= 127 - width / part.width; // to the pixel of the image
      expect(covers || (part.width === image.width && part.height === image.height)).toBe(true);
    }
    expect(wholeView({ width: 200, height: 100 }, 64)).toEqual({
      part: { x: 0, y: 0, width: 200, height: 100 },
      width: 64,
      height: 32,
      flip: false,
    });
  });

  it('are normalised and mirrored in place', () => {
    const into = new Float32Array(3 * 4);
    putPixels(
      Uint8Array.from([0, 51, 255, 255, 102, 0]),
      into,
      { width: 2, height: 1, flip: true },
      { resolution: 2, mean: [0.5, 0, 0], std: [0.5, 1, 2] },
    );
    expect(Array.from(into, (value) => Math.round(value * 1e6) / 1e6)).toEqual([
      1, -1, 0, 0, 0.4, 0.2, 0, 0, 0, 0.5, 0, 0,
    ]);
  });

  it('are trained at a rate that rises and falls', () => {
    const rates = Array.from({ length: 100 }, (_, step) => denseRate(step, 100, 1));
    expect(rates[0]).toBeCloseTo(0.2, 12);
    expect(rates[4]).toBeCloseTo(0.96 ** 0.9, 12);
    expect(rates.indexOf(Math.max(...rates))).toBe(4);
    expect(rates[99]).toBeCloseTo(0.01 ** 0.9, 12);
  });
});

const folder = temporaryFolder();

it('a file that does not say what its network is, or says what none is, is refused with what it says', async () => {
  const file = join(folder, 'model.safetensors');
  const info = {
    task: 'detection',
    architecture: 'resnet18',
    widthMultiplier: 1,
    head: 'fcn',
    outputStride: 32,
    resolution: 64,
    mean: [0, 0, 0],
    std: [1, 1, 1],
    names: ['a'],
    step: 3,
  };
  const read = async (dense: string) => {
    await writeSafetensors(file, [], { format: 'lgdistill-dense', dense });
    return readDense(file, 'detection');
  };
  expect((await read(JSON.stringify(info))).info).toEqual(info);
  const cases: [string, string][] = [
    ['', 'do not describe it'],
    ['null', 'do not describe it'],
    ['{"task"', 'do not describe it'],
    ['{}', 'its task is missing'],
    ...Object.entries({
      std: [1, 0, 1],
      mean: '0',
      resolution: 0,
      names: [],
      outputStride: 7,
      head: 'other',
      widthMultiplier: '1',
      step: -1,
    }).map(([key, value]): [string, string] => [
      JSON.stringify({ ...info, [key]: value }),
      `its ${key} is ${JSON.stringify(value)}`,
    ]),
  ];
  for (const [dense, said] of cases)
    await expect(read(dense), said).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining(said) as string,
    });
});
