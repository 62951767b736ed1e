/** From what a detector says of each location to boxes: the likely ones, and of those that overlap the best. */
import { optionTable } from '../arguments.js';
import { LgdError } from '../errors.js';
import { detectionStrides } from '../models/heads/detection.js';
import { boxOverlap, type Detection } from './average-precision.js';
import { levelSides } from './detection-targets.js';

export interface DecodeOptions {
  /** Scores below it are dropped, 0 to 1; default 0.05. */
  scoreThreshold?: number | undefined;
  /** Boxes of a class that overlap a better one by more (intersection over union, 0 to 1) are dropped; default 0.6. */
  iouThreshold?: number | undefined;
  /** Boxes of an image at most; default 100. */
  maxDetections?: number | undefined;
}

export const decodeOptions = optionTable<DecodeOptions>()('scoreThreshold? iouThreshold? maxDetections?');

/** @throws LgdError BAD_OPTION */
export function checkDecode({ scoreThreshold, iouThreshold, maxDetections }: DecodeOptions): void {
  for (const [option, found] of Object.entries({ scoreThreshold, iouThreshold })) {
    if (found === undefined || (typeof found === 'number' && found >= 0 && found <= 1)) continue;
    throw new LgdError('BAD_OPTION', 'not a share.', { option, found, allowed: 'a number from 0 to 1' });
  }
  if (maxDetections === undefined || (Number.isSafeInteger(maxDetections) && maxDetections >= 1)) return;
  throw new LgdError('BAD_OPTION', 'not a number of boxes.', {
    option: 'maxDetections',
    found: maxDetections,
    allowed: 'a whole number from 1',
  });
}

const mostOfLevel = 1000;
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** What the output tells of. */
interface DecodedInput {
  resolution: number;
  width: number;
  height: number;
  classes: number;
}

/**
 * Boxes of one image, in pixels of the network's input, the likeliest first; what of a box lies beside the image is cut
 * off. The score is the geometric mean of class probability and centre-ness.
 * @param output of a batch of one: level by level class scores [h,w,K], then log distances and centre-ness [h,w,5]
 * @param input its side, and how much of it the image covers, from the upper left corner
 */
export function decodeDetections(
  output: Float32Array,
  input: DecodedInput,
  { scoreThreshold = 0.05, iouThreshold = 0.6, maxDetections = 100 }: DecodeOptions = {},
): Detection[] {
  const found: Detection[] = [];
  let at = 0;
  const { classes } = input;
  levelSides(input.resolution).forEach((side, level) => {
    const boxesAt = at + side * side * classes;
    found.push(
      ...decodeLevel(output.subarray(at, boxesAt), output.subarray(boxesAt, boxesAt + 5 * side * side), {
        ...input,
        side,
        stride: detectionStrides[level]!,
        scoreThreshold,
      }),
    );
    at = boxesAt + 5 * side * side;
  });
  return nonMaximumSuppression(found, iouThreshold).slice(0, maxDetections);
}

function decodeLevel(
  scores: Float32Array,
  boxes: Float32Array,
  {
    side,
    stride,
    classes,
    scoreThreshold,
    width,
    height,
  }: DecodedInput & { side: number; stride: number; scoreThreshold: number },
): Detection[] {
  const found: Detection[] = [];
  const clamp = (value: number, most: number) => Math.min(Math.max(value, 0), most);
  for (let location = 0; location < side * side; location++) {
    const centre = sigmoid(boxes[5 * location + 4]!);
    const leastProbability = scoreThreshold ** 2 / centre;
    if (leastProbability >= 1) continue;
    const leastLogit = Math.log(leastProbability / (1 - leastProbability)); // most classes go by without an exponential
    for (let label = 0; label < classes; label++) {
      if (!(scores[location * classes + label]! >= leastLogit)) continue;
      const score = Math.sqrt(sigmoid(scores[location * classes + label]!) * centre);
      const [x, y] = [((location % side) + 0.5) * stride, (Math.floor(location / side) + 0.5) * stride];
      const distance = (i: number) => stride * Math.exp(Math.min(boxes[5 * location + i]!, 10));
      const [x0, y0, x1, y1] = [
        clamp(x - distance(0), width),
        clamp(y - distance(1), height),
        clamp(x + distance(2), width),
        clamp(y + distance(3), height),
      ];
      if (x1 > x0 && y1 > y0) found.push({ label, score, box: [x0, y0, x1 - x0, y1 - y0] });
    }
  }
  return found.sort((a, b) => b.score - a.score).slice(0, mostOfLevel);
}

/** Class by class: a box goes if it overlaps a likelier one of its class by more than `iouThreshold`. */
export function nonMaximumSuppression(found: readonly Detection[], iouThreshold: number): Detection[] {
  const kept: Detection[] = [];
  for (const candidate of [...found].sort((a, b) => b.score - a.score)) {
    if (!kept.some((other) => other.label === candidate.label && boxOverlap(other.box, candidate.box) > iouThreshold))
      kept.push(candidate);
  }
  return kept;
}
