/** What a run must have before it starts, told before images are decoded. */
import type { Config } from '../config/config.js';
import { checkSide } from '../config/students.js';
import { checkDistinctIds, eachId } from '../data/image-id.js';
import type { ImageSource } from '../data/sources.js';
import { LgdError } from '../errors.js';
import type { AnyTeacher } from '../models/index.js';
import { leastStudentSide, mostStudentSide } from '../number-limits.js';

/** A run without names for zero-shot needs another protocol to evaluate by. @throws LgdError BAD_CONFIG */
export function checkNamed(hasNames: boolean, { evaluate: { also, online, metric, mapping } }: Config): void {
  if (hasNames) return;
  const names = 'names, evaluate.names or evaluate.bank';
  if (also === 'none' && !online) {
    throw new LgdError(
      'BAD_CONFIG',
      'without category names an evaluation needs labelled images to learn from, or an online probe.',
      {
        option: 'evaluate.also',
        found: also,
        allowed: 'knn, linear or both',
        mend: `Give evaluate.also with evaluate.train, or evaluate.online, or names for zero-shot: ${names}`,
      },
    );
  }
  if (metric === 'top1' || metric === 'top5') {
    throw new LgdError('BAD_CONFIG', 'is of zero-shot classification, which needs category names.', {
      option: 'evaluate.metric',
      found: metric,
      mend: `Choose knn, linear, online or loss, or give ${names}`,
    });
  }
  if (mapping !== undefined) {
    throw new LgdError('BAD_CONFIG', 'there are no category names to map class folders to.', {
      option: 'evaluate.mapping',
      found: mapping,
      mend: `Leave it out, or give ${names}`,
    });
  }
}

/**
 * The side of the students' input in pixels: the teacher's, where the configuration has none.
 * @param known students that the package builds
 * @throws LgdError BAD_OPTION
 */
export function sideOf({ resolution }: { resolution: number }, config: Config, known: readonly string[]): number {
  if (config.data.resolution !== undefined) return config.data.resolution; // looked at before the teacher was opened
  const { teacherResolution } = config;
  if (resolution >= leastStudentSide && resolution <= mostStudentSide) {
    checkSide(config, resolution, known);
    return resolution;
  }
  throw new LgdError('BAD_OPTION', "the student's input is as large as the teacher's, and this is no size for it.", {
    option: teacherResolution === undefined ? 'teacher' : 'teacherResolution',
    found: resolution,
    allowed: `${leastStudentSide} to ${mostStudentSide} where the student has no size of its own`,
    mend: "Give data.resolution, the side of the student's input in pixels",
  });
}

/**
 * Refuses options of a new run that without another would be for nothing: nobody would miss what they ask for. @throws
 * LgdError BAD_CONFIG
 */
export function checkUsed({ teacherCache, evaluate }: Config): void {
  if (teacherCache.file !== undefined && teacherCache.views === 0) {
    throw new LgdError('BAD_CONFIG', 'holds nothing where no views come back.', {
      option: 'teacherCache.file',
      found: teacherCache.file,
      mend: 'Give teacherCache.views, how many views of each image come back, or leave the file out',
    });
  }
  for (const option of ['names', 'bank', 'mapping'] as const) {
    if (evaluate.data !== undefined || evaluate[option] === undefined) continue;
    throw new LgdError('BAD_CONFIG', 'needs a folder to evaluate on.', {
      option: `evaluate.${option}`,
      found: evaluate[option],
      mend: `Give evaluate.data, or leave evaluate.${option} out`,
    });
  }
}

export function required(value: string | undefined, option: string, mend: string): string {
  if (value === undefined) throw new LgdError('BAD_CONFIG', 'is needed for training.', { option, mend });
  return value;
}

/**
 * Said before anything is decoded; broken images may still lower the number of images below a batch, which training
 * then refuses.
 */
export function checkBatch(batchSize: number, { ids, root }: ImageSource): void {
  if (ids.length >= batchSize) return;
  throw new LgdError('BAD_CONFIG', `a batch cannot be filled from the ${ids.length} images in ${root}.`, {
    option: 'train.batchSize',
    found: batchSize,
    allowed: `auto, or a whole number to ${ids.length}`,
    mend: 'Take a smaller batch (auto does) or more images',
  });
}

/** A teacher of precomputed embeddings must know every image, and tell it from the others. */
export async function checkEmbeddings(
  teacher: AnyTeacher,
  { ids }: ImageSource,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (teacher.kind !== 'precomputed') return;
  await checkDistinctIds(ids, signal);
  let known = 0;
  await eachId(
    ids,
    (id) => {
      known += Number(teacher.has(id));
    },
    signal,
    'looking for the embeddings of the images',
  );
  if (known < ids.length) teacher.lookup(ids); // says how many, which, and what its ids look like
}
