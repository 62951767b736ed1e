/**
 * Segmentation without training for it: each position of a student's last map through its projection head, and of the
 * text bank the nearest name.
 */
import { checkOptions, optionTable } from '../arguments.js';
import { parseConfig, type ConfigInput } from '../config/config.js';
import { openDevice, type DeviceName } from '../device.js';
import { bankOfNames } from '../evaluate/student.js';
import { precisionOf } from '../models/compiled.js';
import { denseProjectionGraph } from '../models/heads/dense-projection.js';
import { graphOf } from '../models/student.js';
import { readStudent } from '../runs/student-file.js';
import type { SegmentationScore } from './intersection.js';
import { openEvaluation, scoreOptions, scoreSegmenter, type ScoreOptions } from './segmentation.js';
import { checkLook, Segmenter } from './segmenter.js';
import { checkDense } from './trainer.js';

/** What {@link evaluateZeroShotSegmentation} evaluates. */
export interface ZeroShotSegmentationOptions extends ScoreOptions {
  /** A run folder, a checkpoint folder or a student's file, with its projection head. */
  student: string;
  /**
   * As for {@link evaluateSegmentation}; text embeddings of the classes come from `bank` or the student's own bank
   * where they are in it, else from `textEncoder`.
   */
  config: ConfigInput;
}

const zeroShotOptions = optionTable<ZeroShotSegmentationOptions>()('student config', scoreOptions);

/**
 * Scores a student that never saw a mask: a baseline for trained heads.
 * @throws LgdError BAD_CONFIG (no text embeddings of the classes), BAD_MODEL, BAD_BANK, and as
 *   {@link evaluateSegmentation}
 */
export async function evaluateZeroShotSegmentation(given: ZeroShotSegmentationOptions): Promise<SegmentationScore> {
  checkOptions(given, 'evaluateZeroShotSegmentation()', zeroShotOptions);
  checkLook(given);
  const { student: path, config: input, ...options } = given;
  const config = parseConfig(input);
  const { dense } = config;
  checkDense(dense);
  const { file, info, weights } = await readStudent(path);
  denseProjectionGraph(graphOf(info), dense.outputStride); // a student without maps, before texts are asked for
  const set = await openEvaluation(config, { signal: options.signal });
  const bank = await bankOfNames(config, [...set.names], file, info, { signal: options.signal });
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  using segmenter = Segmenter.zeroShot({ graph: graphOf(info), weights, info }, bank, {
    device,
    outputStride: dense.outputStride,
    resolution: dense.resolution,
    precision: precisionOf(config),
  });
  return await scoreSegmenter(segmenter, set, { ...options, inference: options.inference ?? dense.inference });
}
