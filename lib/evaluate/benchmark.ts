import { checkOptions, optionTable } from '../arguments.js';
import { chooseBatch } from '../config/batch.js';
import { parseConfig, type ConfigInput } from '../config/config.js';
import { checkKnownStudents, checkSide } from '../config/students.js';
import type { Device } from '../device.js';
import { compileBatch, ofBatch, precisionOf, type CompiledEncoder } from '../models/compiled.js';
import { optimizerOf } from '../models/optimizer.js';
import { createStudent, mostEmbeddingSize } from '../models/student.js';
import { checkWhole, mostRows } from '../number-limits.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import {
  measureInference,
  measureOptions,
  measureSemantic,
  measureTraining,
  type MeasureOptions,
  type Timing,
} from './throughput.js';

/** What {@link benchmark} measures with. */
export interface BenchmarkOptions extends MeasureOptions {
  device: Device;
  /** K, names in the banks. */
  categories: number;
  /** D, where no teacher tells it. */
  dimension: number;
}

const benchmarkOptions = optionTable<BenchmarkOptions>()('device categories dimension', measureOptions);

/** One measurement. */
export interface BenchmarkRow extends Timing {
  /** What was measured, in words. */
  op: string;
  /** Side of the input in pixels; undefined for the loss. */
  resolution: number | undefined;
}

const resolutionWithoutTeacher = 224;

/**
 * Measures a configuration's student in training and inference, its teacher (where it is one that runs natively) and
 * the semantic loss with the bank update, one after the other. Of the configuration matter teacher, student, seed,
 * offline, data.resolution, train.batchSize (auto is the published 256: there are no images here), train.optimizer and
 * train.precision.
 * @throws LgdError of the teacher and the device; BAD_CONFIG, BAD_OPTION, ABORTED
 */
export async function* benchmark(
  input: ConfigInput,
  given: BenchmarkOptions,
): AsyncGenerator<BenchmarkRow, void, undefined> {
  checkOptions(given, 'benchmark()', benchmarkOptions);
  const { device, categories, dimension, ...options } = given;
  checkWhole('categories', categories, mostRows);
  checkWhole('dimension', dimension, mostEmbeddingSize);
  const config = parseConfig(input);
  checkKnownStudents(config, [config.student.name]);
  const { batchSize: batch } = chooseBatch(config.train, undefined);
  const precision = precisionOf(config);
  await using teacher =
    config.teacher === undefined
      ? undefined
      : await configuredTeacher(config.teacher, config, { device, signal: options.signal });
  const embeddingSize = teacher?.embeddingSize ?? dimension;
  const resolution = config.data.resolution ?? teacher?.resolution ?? resolutionWithoutTeacher;
  checkSide(config, resolution, [config.student.name]);
  const student = createStudent(config.student.name, {
    device,
    embeddingSize,
    seed: config.seed,
    widthMultiplier: config.student.widthMultiplier,
    resolution,
  });
  /** Says which option to lower where something does not fit. */
  const fitting = async <Result>(
    measure: () => Promise<Result>,
    [option, count, mend]: [option: string, count: number, mend?: string] = ['train.batchSize', batch],
  ): Promise<Result> => {
    try {
      return await measure();
    } catch (cause) {
      throw ofBatch(cause, option, count, mend);
    }
  };
  const training = async () => {
    using encoder = compileBatch('train.batchSize', batch, () =>
      student.compile({ batch, resolution, precision, training: true, optimizer: optimizerOf(config) }),
    );
    return await measureTraining(encoder, options);
  };
  const inference = async (compile: () => CompiledEncoder) => {
    using encoder = compile();
    return await measureInference(encoder, options);
  };
  yield { op: 'student, training step', resolution, ...(await fitting(training)) };
  const compileStudent = () => student.compile({ batch, resolution, precision, training: false });
  yield { op: 'student, inference', resolution, ...(await fitting(() => inference(compileStudent))) };
  if (teacher?.kind === 'native') {
    const compileTeacher = () => teacher.compile({ batch, precision });
    const timing = await fitting(() => inference(compileTeacher));
    yield { op: 'teacher, inference', resolution: teacher.resolution, ...timing };
  }
  const bfloat16 = device.kind !== 'cpu' && precision !== 'float32';
  const semantic = { batch, categories, dimension: embeddingSize, bfloat16 };
  yield {
    op: 'semantic loss and bank update',
    resolution: undefined,
    ...(await fitting(
      () => measureSemantic(device, semantic, options),
      categories > batch
        ? ['categories', categories, 'Take fewer categories, or a smaller dimension']
        : ['train.batchSize', batch, 'Take a smaller train.batchSize, or a smaller dimension'],
    )),
  };
}
