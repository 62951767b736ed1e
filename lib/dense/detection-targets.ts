/** What each location of each level should say: FCOS's assignment (Tian et al. 2019, section 3). */
import { detectionStrides } from '../models/heads/detection.js';
import type { Annotation } from '../data/coco.js';

/** Boxes of one training view, in pixels of the network's input. */
export interface ViewBox extends Pick<Annotation, 'label' | 'crowd'> {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

/** Targets of a batch, as the engine's detection loss takes them. */
export interface DetectionTargets {
  labels: Int32Array;
  boxes: Float32Array;
  /** Locations with a class. */
  positive: number;
  /** Sum of their centre-ness. */
  centred: number;
}

/** Largest distance to a side that a level answers for, in pixels; the level below ends where it begins. */
const reach = [64, 128, 256, 512, Infinity];
/** A location counts for an object within so many strides of its centre (the paper's later "centre sampling"). */
const radius = 1.5;

/** Rows and columns of each level of an input of side R. */
export function levelSides(resolution: number): number[] {
  return detectionStrides.reduce<{ size: number; sides: number[] }>(
    ({ size, sides }, stride) => {
      const next = stride <= 32 ? resolution / stride : Math.ceil(size / 2);
      return { size: next, sides: [...sides, next] };
    },
    { size: resolution, sides: [] },
  ).sides;
}

/**
 * Assigns locations to boxes. A location belongs to a box if it lies in it near its centre and the farthest side is
 * within the level's reach; of several boxes to the smallest. Locations inside of a crowd that belong to no box do not
 * count.
 * @param images the boxes of each image of the batch
 */
export function assignTargets(images: readonly (readonly ViewBox[])[], resolution: number): DetectionTargets {
  const sides = levelSides(resolution);
  const total = images.length * sides.reduce((sum, side) => sum + side * side, 0);
  const targets: DetectionTargets = {
    labels: new Int32Array(total).fill(-1),
    boxes: new Float32Array(4 * total),
    positive: 0,
    centred: 0,
  };
  let first = 0;
  detectionStrides.forEach((stride, level) => {
    const side = sides[level]!;
    for (const boxes of images) {
      // the largest first, so that a smaller one takes what both lay claim to
      const sorted = [...boxes].sort((a, b) => Number(b.crowd) - Number(a.crowd) || areaOf(b) - areaOf(a));
      for (const box of sorted)
        claim(targets, box, { first, side, stride, low: level === 0 ? 0 : reach[level - 1]!, high: reach[level]! });
      first += side * side;
    }
  });
  for (let i = 0; i < total; i++) {
    if (targets.labels[i]! < 0) continue;
    const [l, t, r, b] = targets.boxes.subarray(4 * i, 4 * i + 4) as unknown as [number, number, number, number];
    targets.positive++;
    targets.centred += Math.sqrt((Math.min(l, r) / Math.max(l, r)) * (Math.min(t, b) / Math.max(t, b)));
  }
  return targets;
}

const areaOf = ({ x0, y0, x1, y1 }: ViewBox) => (x1 - x0) * (y1 - y0);

interface Level {
  first: number;
  side: number;
  stride: number;
  low: number;
  high: number;
}

function claim(
  { labels, boxes }: DetectionTargets,
  { x0, y0, x1, y1, label, crowd }: ViewBox,
  { first, side, stride, low, high }: Level,
): void {
  const near = crowd ? Infinity : radius * stride;
  const [cx, cy] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const from = (edge: number, centre: number) => Math.max(0, Math.ceil(Math.max(edge, centre - near) / stride - 0.5));
  const to = (edge: number, centre: number) =>
    Math.min(side - 1, Math.floor(Math.min(edge, centre + near) / stride - 0.5));
  for (let row = from(y0, cy); row <= to(y1, cy); row++) {
    for (let column = from(x0, cx); column <= to(x1, cx); column++) {
      const [x, y] = [(column + 0.5) * stride, (row + 0.5) * stride];
      const distances = [x - x0, y - y0, x1 - x, y1 - y];
      const farthest = Math.max(...distances);
      const location = first + row * side + column;
      if (Math.min(...distances) <= 0) continue;
      if (crowd) {
        labels[location] = -2;
        continue;
      }
      if (farthest <= low || farthest > high) continue;
      labels[location] = label;
      boxes.set(
        distances.map((distance) => distance / stride),
        4 * location,
      );
    }
  }
}
