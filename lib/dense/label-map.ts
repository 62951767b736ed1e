/** Class scores of windows on coarse grids, to a class for each pixel of the image under them. */
import { nextTurn } from '../turn.js';
import type { Rectangle } from './pixels.js';

/** What a network says about a part of an image. */
export interface ScoredWindow {
  part: Rectangle;
  /** Pixels of the network's input an image pixel: the part was drawn at this scale into the upper left corner. */
  scaleX: number;
  scaleY: number;
  /** Input pixels a position. */
  stride: number;
  /** Positions of the grid. */
  rows: number;
  columns: number;
  /** [rows, columns, K]. */
  scores: Float32Array;
}

const valuesAtOnce = 2 ** 21; // a few milliseconds of work on the main thread

/** Where a pixel reads on a grid, corners not aligned: (1 - weight) of `low` and weight of `high`. */
function tap(
  pixel: number,
  scale: number,
  stride: number,
  count: number,
): { low: number; high: number; weight: number } {
  const place = Math.min(Math.max(((pixel + 0.5) * scale) / stride - 0.5, 0), count - 1);
  const low = Math.floor(place);
  return { low, high: Math.min(low + 1, count - 1), weight: place - low };
}

/**
 * The class of each pixel: scores are interpolated bilinearly, summed over the windows that cover the pixel, and the
 * largest wins (the first of equal ones). Every pixel must lie in a window.
 * @returns [height, width]
 * @throws LgdError ABORTED
 */
export async function labelMap(
  windows: readonly ScoredWindow[],
  { width, height, classes }: { width: number; height: number; classes: number },
  signal?: AbortSignal,
): Promise<Int16Array> {
  const labels = new Int16Array(width * height);
  const sums = new Float32Array(width * classes);
  const line = new Float32Array(Math.max(...windows.map(({ columns }) => columns)) * classes);
  let done = 0;
  for (let y = 0; y < height; y++) {
    const covering = windows.filter(({ part }) => y >= part.y && y < part.y + part.height);
    sums.fill(0);
    for (const window of covering) {
      mixRows(window, y - window.part.y, classes, line);
      addLine(window, classes, line, sums);
    }
    takeLargest(sums, classes, labels.subarray(y * width, (y + 1) * width));
    done += width * classes * covering.length;
    if (done < valuesAtOnce) continue;
    done = 0;
    await nextTurn(signal, 'the segmentation');
  }
  return labels;
}

/** The grid's line at an image row. */
function mixRows(
  { rows, columns, scores, scaleY, stride }: ScoredWindow,
  y: number,
  classes: number,
  line: Float32Array,
): void {
  const { low, high, weight } = tap(y, scaleY, stride, rows);
  const [above, below] = [low * columns * classes, high * columns * classes];
  for (let i = 0; i < columns * classes; i++)
    line[i] = scores[above + i]! + weight * (scores[below + i]! - scores[above + i]!);
}

function addLine(
  { part, columns, scaleX, stride }: ScoredWindow,
  classes: number,
  line: Float32Array,
  sums: Float32Array,
): void {
  for (let x = 0; x < part.width; x++) {
    const { low, high, weight } = tap(x, scaleX, stride, columns);
    const [left, right, to] = [low * classes, high * classes, (part.x + x) * classes];
    for (let k = 0; k < classes; k++)
      sums[to + k] = sums[to + k]! + line[left + k]! + weight * (line[right + k]! - line[left + k]!);
  }
}

function takeLargest(sums: Float32Array, classes: number, labels: Int16Array): void {
  for (let x = 0; x < labels.length; x++) {
    let best = 0;
    for (let k = 1; k < classes; k++) if (sums[x * classes + k]! > sums[x * classes + best]!) best = k;
    labels[x] = best;
  }
}

/**
 * Windows along an image: squares of its short side, evenly spread along the long one, each overlapping the next by at
 * least a third.
 */
export function slidingParts({ width, height }: { width: number; height: number }): Rectangle[] {
  const side = Math.min(width, height);
  const rest = Math.max(width, height) - side;
  const count = Math.ceil(rest / ((2 / 3) * side)) + 1;
  return Array.from({ length: count }, (_, i) => {
    const at = count === 1 ? 0 : Math.round((rest * i) / (count - 1));
    return width >= height ? { x: at, y: 0, width: side, height: side } : { x: 0, y: at, width: side, height: side };
  });
}
