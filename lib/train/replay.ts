import { mkdir, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { RunConfig } from '../config/batch.js';
import { LgdError } from '../errors.js';
import { writeJson } from '../files/json.js';
import { writeSafetensors, type TensorRecord } from '../files/safetensors.js';
import { version } from '../package.js';
import { idsOf, type Batch } from './batch.js';
import type { StepTaker } from './step-taker.js';

interface FaultyStep {
  /** Which of the distiller's students. */
  student: number;
  /** The configuration of its run. */
  config: RunConfig;
  /** Number of the step from 0. */
  step: number;
  learningRate: number;
  batches: readonly Batch[];
  reason: string;
  /** The last good checkpoint's folder: training on from it comes to the same step again. */
  checkpoint: string | null;
}

/** Writes what is needed to replay a step that went wrong, and makes the error that ends the run. */
export async function faultOf(
  distiller: StepTaker,
  runFolder: string,
  faulty: FaultyStep,
  cause: LgdError | undefined,
): Promise<LgdError> {
  const { student, step, reason } = faulty;
  const { students } = distiller;
  const where = await writeReplay(distiller, runFolder, faulty);
  return new LgdError(
    cause?.code ?? 'NON_FINITE',
    `step ${step + 1}${students.length > 1 ? ` of ${students[student]!.name}` : ''} went wrong: ${reason}.`,
    {
      mend: `${where} Lower train.learningRate, or look at those images; train.outlierFactor sets what counts as an outlier`,
      cause,
    },
  );
}

/**
 * Writes `replay/` into a run folder: replay.json (step, images, draws, seed, configuration) and banks.safetensors, the
 * banks as they were when the fault was noticed, which may be one step later.
 * @returns a sentence that says where it is, or why it could not be written
 */
async function writeReplay(
  distiller: StepTaker,
  runFolder: string,
  { student, config, step, learningRate, batches, reason, checkpoint }: FaultyStep,
): Promise<string> {
  const folder = join(runFolder, 'replay');
  try {
    await distiller.device.synchronize().catch(() => undefined); // the fault itself may be what it reports
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
    const { semantic } = await distiller.state(student);
    const size = distiller.teacher.embeddingSize;
    const tensors: [string, TensorRecord][] = [];
    for (const [name, data] of [
      ['visual_bank', semantic.visual],
      ['queue', semantic.queue],
    ] as const) {
      if (data !== undefined && data.length > 0) tensors.push([name, { shape: [data.length / size, size], data }]);
    }
    if (semantic.seen !== undefined && semantic.seen.length > 0)
      tensors.push(['seen', { shape: [semantic.seen.length], data: semantic.seen }]);
    await writeSafetensors(join(folder, 'banks.safetensors'), tensors, { format: 'lgdistill-replay', version });
    const record = {
      version,
      step: step + 1,
      reason,
      learningRate,
      checkpoint: checkpoint === null ? null : relative(runFolder, checkpoint),
      batches: batches.map((batch) => ({
        seed: batch.seed,
        epoch: batch.epoch,
        batch: batch.step,
        images: idsOf(batch),
        drawIds: Array.from(batch.drawIds),
      })),
      config,
    };
    await writeJson(join(folder, 'replay.json'), record);
    return `What replaying it takes is in ${folder}.`;
  } catch (error) {
    return `Nothing to replay it by could be written (${(error as Error).message}).`;
  }
}
