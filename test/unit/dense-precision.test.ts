import { describe, expect, it } from 'vitest';
import type { BoxedImages } from '../../lib/data/coco.js';
import { averagePrecision, type Detection } from '../../lib/dense/average-precision.js';
import { decodeDetections, nonMaximumSuppression } from '../../lib/dense/detection-decode.js';
import { assignTargets, levelSides } from '../../lib/dense/detection-targets.js';
import { randomNumbers } from '../fixtures/random.js';

type Box = [number, number, number, number];
const annotation = (box: Box, { label = 0, crowd = false, area = box[2] * box[3] } = {}) => ({
  label,
  box,
  area,
  crowd,
});
const setOf = (images: ReturnType<typeof annotation>[][], names = ['thing']): BoxedImages => ({
  names,
  categoryIds: names.map((_, i) => i + 1),
  images: images.map((annotations, id) => ({ id, file: `${id}.png`, width: 640, height: 480, annotations })),
});
const found = (box: Box, score: number, label = 0): Detection => ({ label, score, box });

describe('average precision', () => {
  it('of a case worked by hand', async () => {
    // Two annotations in two images. Detections by score: right (overlap 1), wrong, right with an overlap of 0.8 (80 of
    // 100 pixels wide).
    const set = setOf([[annotation([0, 0, 100, 100])], [annotation([0, 0, 100, 100])]]);
    const score = await averagePrecision(set, [
      [found([0, 0, 100, 100], 0.9), found([300, 300, 50, 50], 0.8)],
      [found([0, 0, 80, 100], 0.7)],
    ]);
    // Overlaps 0.50 to 0.80: precision 1 up to recall 0.5 (51 recalls), then 2/3 (50 recalls). Beyond 0.80: only the
    // first, 51 recalls of 1.
    const both = (51 + 50 * (2 / 3)) / 101;
    expect(score.ap50).toBeCloseTo(both, 12);
    expect(score.ap75).toBeCloseTo(both, 12);
    expect(score.ap).toBeCloseTo((7 * both + 3 * (51 / 101)) / 10, 12);
    // both annotations are 10,000 pixels large: of the large ones only, and the wrong box of 2,500 is left out there
    expect(score.apSmall).toBeNull();
    expect(score.apMedium).toBeNull();
    expect(score.apLarge).toBeCloseTo((7 * 1 + 3 * (51 / 101)) / 10, 12);
  });

  it('takes an annotation once, and a second detection of it as a mistake', async () => {
    const set = setOf([[annotation([0, 0, 40, 40])]]);
    // full recall comes before the mistake
    expect((await averagePrecision(set, [[found([0, 0, 40, 40], 0.5), found([0, 0, 40, 40], 0.9)]])).ap).toBeCloseTo(
      1,
      12,
    );
    const two = setOf([[annotation([0, 0, 40, 40]), annotation([100, 0, 40, 40])]]);
    const score = await averagePrecision(two, [
      [found([0, 0, 40, 40], 0.9), found([0, 0, 40, 40], 0.8), found([100, 0, 40, 40], 0.7)],
    ]);
    expect(score.ap).toBeCloseTo((51 + 50 * (2 / 3)) / 101, 12);
    expect(score.apMedium).toBeCloseTo(score.ap!, 12);
  });

  // grouped by copying, they took a quarter of a minute
  it('of an image counts the 100 best of a class, of however many', async () => {
    const set = setOf([[annotation([0, 0, 40, 40]), annotation([100, 0, 40, 40])]]);
    const many = Array.from({ length: 40_000 }, (_, i) =>
      found(i === 99 ? [0, 0, 40, 40] : i === 100 ? [100, 0, 40, 40] : [300, 300, 40, 40], 1 - i / 40_000),
    );
    const start = process.cpuUsage();
    const score = await averagePrecision(set, [many]);
    expect(process.cpuUsage(start).user / 1e6).toBeLessThan(5); // other programs may keep this one waiting
    expect(score.ap).toBeCloseTo((51 * 0.01) / 101, 12);
    expect(score).toEqual(await averagePrecision(set, [many.slice(0, 100)]));
  });

  it('neither misses nor forbids what lies in a crowd, however often', async () => {
    const set = setOf([[annotation([0, 0, 50, 50]), annotation([100, 0, 200, 200], { crowd: true })]]);
    const score = await averagePrecision(set, [
      [found([110, 10, 20, 20], 0.95), found([200, 50, 30, 30], 0.92), found([0, 0, 50, 50], 0.9)],
    ]);
    expect(score.ap).toBeCloseTo(1, 12);
    // nothing to find
    expect((await averagePrecision(setOf([[annotation([0, 0, 9, 9], { crowd: true })]]), [[]])).ap).toBeNull();
  });

  it('counts at most 100 detections of a class in an image', async () => {
    const set = setOf([[annotation([0, 0, 50, 50])]]);
    const noise = Array.from({ length: 100 }, (_, i) => found([400, 300, 20, 20], 0.9 - i / 1000));
    expect((await averagePrecision(set, [[...noise, found([0, 0, 50, 50], 0.1)]])).ap).toBe(0);
    expect((await averagePrecision(set, [[...noise.slice(1), found([0, 0, 50, 50], 0.1)]])).ap).toBeCloseTo(
      1 / 100,
      12,
    );
  });

  it('is the mean over the classes that are there', async () => {
    const set = setOf([[annotation([0, 0, 50, 50]), annotation([0, 0, 50, 50], { label: 1 })]], ['a', 'b', 'c']);
    const score = await averagePrecision(set, [[found([0, 0, 50, 50], 0.9), found([0, 0, 50, 50], 0.9, 2)]]);
    expect(score.classes.map(({ ap }) => (ap === null ? null : Math.round(ap * 1e6) / 1e6))).toEqual([1, 0, null]);
    expect(score.ap).toBeCloseTo(0.5, 12);
  });

  it('agrees with precision and recall counted anew at every threshold, without crowds', async () => {
    const random = randomNumbers(11);
    const box = (): Box => [400 * random(), 300 * random(), 20 + 120 * random(), 20 + 120 * random()];
    const images = Array.from({ length: 12 }, () =>
      Array.from({ length: 1 + Math.floor(4 * random()) }, () => annotation(box())),
    );
    const detections = images.map((annotations) => [
      ...annotations
        .filter(() => random() < 0.8)
        .map(({ box: [x, y, w, h] }) =>
          found([x + 12 * (random() - 0.5), y + 12 * (random() - 0.5), w * (0.85 + 0.3 * random()), h], random()),
        ),
      ...Array.from({ length: 3 }, () => found(box(), 0.8 * random())),
    ]);
    const iou = ([ax, ay, aw, ah]: Box, [bx, by, bw, bh]: Box) => {
      const [w, h] = [
        Math.max(0, Math.min(ax + aw, bx + bw) - Math.max(ax, bx)),
        Math.max(0, Math.min(ay + ah, by + bh) - Math.max(ay, by)),
      ];
      return (w * h) / (aw * ah + bw * bh - w * h);
    };
    // For each score as a threshold: match anew from scratch, count, and take the largest precision at each recall or
    // beyond.
    const recomputed = (overlap: number) => {
      const scores = detections
        .flat()
        .map(({ score }) => score)
        .sort((a, b) => b - a);
      const points = scores.map((least) => {
        let [right, wrong] = [0, 0];
        images.forEach((annotations, i) => {
          const free = new Set(annotations.map((_, a) => a));
          for (const { box: of } of detections[i]!.filter(({ score }) => score >= least).sort(
            (a, b) => b.score - a.score,
          )) {
            const best = [...free]
              .map((a) => ({ a, share: iou(of, annotations[a]!.box) }))
              .filter(({ share }) => share >= overlap)
              .sort((p, q) => q.share - p.share)[0];
            if (best === undefined) wrong++;
            else {
              right++;
              free.delete(best.a);
            }
          }
        });
        return { recall: right / images.flat().length, precision: right / (right + wrong) };
      });
      return (
        Array.from({ length: 101 }, (_, i) =>
          Math.max(0, ...points.filter(({ recall }) => recall >= i / 100 - 1e-12).map(({ precision }) => precision)),
        ).reduce((a, b) => a + b, 0) / 101
      );
    };
    const score = await averagePrecision(setOf(images), detections);
    expect(score.ap50).toBeCloseTo(recomputed(0.5), 9);
    expect(score.ap75).toBeCloseTo(recomputed(0.75), 9);
    expect(score.ap50!).toBeGreaterThan(score.ap75!);
    expect(score.ap).toBeCloseTo(
      Array.from({ length: 10 }, (_, i) => recomputed(0.5 + 0.05 * i)).reduce((a, b) => a + b, 0) / 10,
      9,
    );
  });

  it('refuses lists that are not one for each image, or whose numbers are none, and stops when asked to', async () => {
    const set = setOf([[annotation([0, 0, 50, 50])], []]);
    await expect(averagePrecision(set, [[]])).rejects.toMatchObject({ code: 'BAD_SHAPE' });
    for (const broken of [found([0, 0, 50, 50], NaN), found([0, NaN, 50, 50], 0.5)])
      await expect(averagePrecision(set, [[], [broken]])).rejects.toMatchObject({
        code: 'NON_FINITE',
        option: 'found',
      });
    await expect(averagePrecision(set, [[], []], AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('boxes of an output', () => {
  it('end where the image does, and one beside it takes no place of another', () => {
    // logits, and distances of next to nothing
    const output = new Float32Array(levelSides(32).reduce((sum, side) => sum + 6 * side * side, 0)).fill(-20);
    const at = (location: number, logit: number, distances: number[]) => {
      output[location] = logit;
      output.set([...distances, 9], 16 + 5 * location);
    };
    // of 4 x 4 locations, the last of the first row: it and its box lie beside an image 12 pixels wide
    at(3, 5, [-1, -1, -1, -1]);
    at(1, 3, [0, -1, 3, -1]); // to the image's edge and beyond
    const found = decodeDetections(output, { resolution: 32, width: 12, height: 32, classes: 1 }, { maxDetections: 1 });
    // 8 exp(-1) is 2.94
    expect(found.map(({ box }) => box.map((value) => Math.round(100 * value) / 100))).toEqual([[4, 1.06, 8, 5.89]]);
    expect(
      decodeDetections(output, { resolution: 32, width: 32, height: 32, classes: 1 }, { maxDetections: 1 })[0]!.box[0],
    ).toBeGreaterThan(12);
  });
});

describe('suppression', () => {
  it('keeps the likeliest of boxes that overlap, class by class', () => {
    const boxes = [
      found([0, 0, 10, 10], 0.5),
      found([1, 0, 10, 10], 0.9),
      found([1, 0, 10, 10], 0.4, 1),
      found([20, 0, 10, 10], 0.3),
    ];
    expect(nonMaximumSuppression(boxes, 0.6).map(({ score }) => score)).toEqual(
      [0.9, 0.5, 0.4, 0.3].filter((score) => score !== 0.5),
    );
    expect(nonMaximumSuppression(boxes, 0.9).length).toBe(4); // 9 / 11 is no more than 0.9
  });
});

describe('targets', () => {
  it('give a box to the level that its size is for, near its centre, and a smaller box what both claim', () => {
    expect(levelSides(256)).toEqual([32, 16, 8, 4, 2]);
    expect(levelSides(96)).toEqual([12, 6, 3, 2, 1]);
    const { labels, boxes, positive, centred } = assignTargets(
      [
        [
          { label: 3, crowd: false, x0: 20, y0: 20, x1: 60, y1: 60 },
          { label: 4, crowd: false, x0: 34, y0: 34, x1: 46, y1: 46 },
        ],
      ],
      256,
    );
    const at = (row: number, column: number) => labels[row * 32 + column];
    expect([at(3, 3), at(4, 4), at(5, 5)]).toEqual([3, 4, 4]); // at 28, 36 and 44 pixels
    expect(positive).toBe(labels.filter((label) => label >= 0).length);
    for (let i = 0; i < labels.length; i++) {
      if (labels[i]! < 0) continue;
      expect(i).toBeLessThan(32 * 32); // both are small: level P3 alone
      const [x, y] = [((i % 32) + 0.5) * 8, (Math.floor(i / 32) + 0.5) * 8];
      const [l, t, r, b] = Array.from(boxes.subarray(4 * i, 4 * i + 4), (value) => 8 * value);
      expect([x - l!, y - t!, x + r!, y + b!]).toEqual(labels[i] === 4 ? [34, 34, 46, 46] : [20, 20, 60, 60]);
      expect(Math.max(Math.abs(x - 40), Math.abs(y - 40))).toBeLessThanOrEqual(12);
    }
    expect(centred).toBeGreaterThan(0);
    expect(centred).toBeLessThanOrEqual(positive);
  });

  it('leave out locations in a crowd that belong to nothing else', () => {
    const { labels } = assignTargets(
      [
        [
          { label: 0, crowd: true, x0: 0, y0: 0, x1: 128, y1: 128 },
          { label: 1, crowd: false, x0: 32, y0: 32, x1: 64, y1: 64 },
        ],
      ],
      128,
    );
    expect(labels.filter((label) => label === 1).length).toBeGreaterThan(0);
    expect(labels.filter((label) => label === -2).length).toBeGreaterThan(200);
    expect(labels.filter((label) => label === -1).length).toBe(0);
  });
});
