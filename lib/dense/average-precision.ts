/**
 * COCO's mean average precision of boxes, as pycocotools computes it (Lin et al. 2014; its cocoeval.py): ten overlaps
 * from 0.50 to 0.95, precision at 101 recalls, at most 100 detections an image, sizes small (area below 32^2), medium
 * (to 96^2) and large by the annotations' area, crowds neither missed nor mistaken.
 */
import { checkArgument } from '../arguments.js';
import { mean } from '../averages.js';
import type { Annotation, BoxedImages } from '../data/coco.js';
import { LgdError } from '../errors.js';
import { nextTurn } from '../turn.js';

/** A box that a network found. */
export interface Detection {
  /** Index into the names. */
  label: number;
  score: number;
  /** x, y, width, height in pixels. */
  box: [number, number, number, number];
}

/** Shares from 0 to 1; null where no annotation is of that kind. */
export interface DetectionScore {
  /** Mean over the ten overlaps and the classes. */
  ap: number | null;
  ap50: number | null;
  ap75: number | null;
  apSmall: number | null;
  apMedium: number | null;
  apLarge: number | null;
  classes: { name: string; ap: number | null; ap50: number | null }[];
  images: number;
}

// Rounded as numpy's linspace rounds them, on which a recall of exactly one of these depends.
const overlaps = Array.from({ length: 10 }, (_, i) => (i === 9 ? 0.95 : 0.5 + i * ((0.95 - 0.5) / 9)));
const recalls = Array.from({ length: 101 }, (_, i) => (i === 100 ? 1 : i * 0.01));
const mostDetections = 100;
const sizes = { all: [0, 1e10], small: [0, 32 ** 2], medium: [32 ** 2, 96 ** 2], large: [96 ** 2, 1e10] } as const;
type Size = keyof typeof sizes;

/**
 * One detection judged: whether it meets an annotation, and whether it is left out of the count; a bit for each
 * overlap. A large set has millions.
 */
interface JudgedDetection {
  score: number;
  right: number;
  ignored: number;
}

/** What was found of a class in an image, the highest score first, and what is there. */
interface ClassInImage {
  found: Detection[];
  annotations: Annotation[];
}

/** Intersection over union; with a crowd, the share of the box that lies in it. */
export function boxOverlap([x, y, w, h]: Detection['box'], [ox, oy, ow, oh]: Detection['box'], crowd = false): number {
  const width = Math.min(x + w, ox + ow) - Math.max(x, ox);
  const height = Math.min(y + h, oy + oh) - Math.max(y, oy);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / (crowd ? w * h : w * h + ow * oh - width * height);
}

/**
 * Matches one image's detections of a class, the highest score first, each with the annotation that it overlaps most
 * and that is still free.
 */
function judge(
  { found, annotations }: ClassInImage,
  [low, high]: readonly [number, number],
): { judged: JudgedDetection[]; wanted: number } {
  const isIgnored = ({ crowd, area }: Annotation) => crowd || area < low || area > high;
  // those that count come first
  const targets = [...annotations].sort((a, b) => Number(isIgnored(a)) - Number(isIgnored(b)));
  const shares = found.map(({ box }) => targets.map((target) => boxOverlap(box, target.box, target.crowd)));
  const judged = found.map(({ score }): JudgedDetection => ({ score, right: 0, ignored: 0 }));
  for (const [overlap, least] of overlaps.entries()) {
    const taken = new Set<number>();
    found.forEach(({ box }, d) => {
      let best = -1;
      let share = Math.min(least, 1 - 1e-10);
      for (const [t, target] of targets.entries()) {
        if (taken.has(t) && !target.crowd) continue;
        // one that counts is better than any that does not
        if (best >= 0 && !isIgnored(targets[best]!) && isIgnored(target)) break;
        if (shares[d]![t]! < share) continue;
        [best, share] = [t, shares[d]![t]!];
      }
      if (best >= 0) taken.add(best);
      const area = box[2] * box[3];
      judged[d]!.right |= Number(best >= 0) << overlap;
      judged[d]!.ignored |= Number(best >= 0 ? isIgnored(targets[best]!) : area < low || area > high) << overlap;
    });
  }
  return { judged, wanted: targets.filter((target) => !isIgnored(target)).length };
}

/** Average precision at one overlap: the mean over 101 recalls of the best precision at that recall or beyond. */
function precisionAt(judged: readonly JudgedDetection[], overlap: number, wanted: number): number {
  const precision = new Float64Array(judged.length);
  const recall = new Float64Array(judged.length);
  let [right, wrong] = [0, 0];
  for (const [i, entry] of judged.entries()) {
    const counts = 1 - ((entry.ignored >> overlap) & 1);
    if ((entry.right >> overlap) & 1) right += counts;
    else wrong += counts;
    recall[i] = right / wanted;
    precision[i] = right / (right + wrong + Number.EPSILON);
  }
  for (let i = precision.length - 2; i >= 0; i--) precision[i] = Math.max(precision[i]!, precision[i + 1]!);
  let place = 0;
  let sum = 0;
  for (const level of recalls) {
    while (place < recall.length && recall[place]! < level) place++;
    sum += precision[place] ?? 0;
  }
  return sum / recalls.length;
}

/** Of each class the images that have any of it, in their order. */
function byClass({ images, names }: BoxedImages, found: readonly (readonly Detection[])[]): ClassInImage[][] {
  const classes = names.map((): ClassInImage[] => []);
  for (const [i, { annotations }] of images.entries()) {
    const here = new Map<number, ClassInImage>();
    const of = (label: number): ClassInImage => {
      const known = here.get(label);
      if (known !== undefined) return known;
      const made: ClassInImage = { found: [], annotations: [] };
      here.set(label, made);
      classes[label]?.push(made);
      return made;
    };
    for (const annotation of annotations) of(annotation.label).annotations.push(annotation);
    for (const detection of [...found[i]!].sort((a, b) => b.score - a.score)) {
      const { found: best } = of(detection.label);
      if (best.length < mostDetections) best.push(detection);
    }
  }
  return classes;
}

/**
 * Scores detections.
 * @param found of each image of `set`, in its order
 * @throws LgdError BAD_SHAPE (not a list for each image), NON_FINITE (a score or a box), ABORTED
 */
export async function averagePrecision(
  set: BoxedImages,
  found: readonly (readonly Detection[])[],
  signal?: AbortSignal,
): Promise<DetectionScore> {
  checkArgument('set', set);
  if (!Array.isArray(found as unknown))
    throw new LgdError('BAD_OPTION', 'these are no lists of detections.', {
      option: 'found',
      found,
      allowed: 'an array, for each image one of { label, score, box }',
    });
  if (found.length !== set.images.length)
    throw new LgdError(
      'BAD_SHAPE',
      `${found.length} lists of detections are not one for each of ${set.images.length} images.`,
      { option: 'found', mend: 'Give an empty list for an image without detections' },
    );
  const broken = found.findIndex(
    (detections) => !detections.every(({ score, box }) => Number.isFinite(score) && box.every(Number.isFinite)),
  );
  // sorting by NaN sorts nothing
  if (broken !== -1)
    throw new LgdError(
      'NON_FINITE',
      `a detection in image ${set.images[broken]!.id} has a score or a box that is not finite.`,
      { option: 'found', mend: 'Leave it out, or look for where it comes from' },
    );
  const classes = byClass(set, found);
  /** [overlap] of a class at one size; null where no annotation of the class is of that size. */
  const precisions = (images: readonly ClassInImage[], size: Size): number[] | null => {
    const judged: JudgedDetection[] = [];
    let wanted = 0;
    for (const image of images) {
      const part = judge(image, sizes[size]);
      judged.push(...part.judged);
      wanted += part.wanted;
    }
    if (wanted === 0) return null;
    judged.sort((a, b) => b.score - a.score);
    return overlaps.map((_, overlap) => precisionAt(judged, overlap, wanted));
  };
  const table: Record<Size, (number[] | null)[]> = { all: [], small: [], medium: [], large: [] };
  for (const images of classes) {
    for (const size of Object.keys(table) as Size[]) {
      table[size].push(precisions(images, size));
      await nextTurn(signal, 'the scoring of detections');
    }
  }
  const over = (rows: (number[] | null)[]) => mean(rows.map((row) => mean(row ?? [])));
  const at = (rows: (number[] | null)[], overlap: number) => mean(rows.map((row) => row?.[overlap] ?? null));
  const { all } = table;
  return {
    ap: over(all),
    ap50: at(all, 0),
    ap75: at(all, 5),
    apSmall: over(table.small),
    apMedium: over(table.medium),
    apLarge: over(table.large),
    classes: set.names.map((name, i) => ({ name, ap: mean(all[i] ?? []), ap50: all[i]?.[0] ?? null })),
    images: set.images.length,
  };
}
