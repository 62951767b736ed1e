/** Whether a device computes what the CPU does: steps of a configuration on made-up images, on both. */
import { checkArgument, checkOptions, optionTable } from '../../arguments.js';
import { parseConfig, type ConfigInput } from '../../config/config.js';
import { checkKnownStudents } from '../../config/students.js';
import { openDevice, type Device } from '../../device.js';
import { isOfTheNumbers, LgdError, throwIfAborted } from '../../errors.js';
import { precisionOf, type Precision } from '../../models/compiled.js';
import { mostEmbeddingSize } from '../../models/student.js';
import { checkWhole, mostRows } from '../../number-limits.js';
import type { Distiller } from '../distiller.js';
import { Bench } from './bench.js';
import { errorsOf, nudged, nudgedWeights, otherBits, wholeError, type Errors } from './errors.js';

/** What {@link verifyDevice} compares. */
export interface VerifyOptions {
  /** The one in question: not a CPU, which is what it is held against. */
  device: Device;
  /** K, names in the text bank; default 1000. */
  categories?: number | undefined;
  /** D, where no teacher on the device tells it; default 512. */
  dimension?: number | undefined;
  /** Optimiser steps that are compared; default 4. */
  steps?: number | undefined;
  /** Called after each step that was compared. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
  signal?: AbortSignal | undefined;
}

const verifyOptions = optionTable<VerifyOptions>()('device categories? dimension? steps? onProgress? signal?');

/**
 * What is compared, in the order of a step: augmented views; the teacher's embeddings of the CPU's views; the loss; the
 * gradients of all parameters (and AdamW's second moment); how the optimiser moves the weights, by what it keeps beside
 * them; how the visual bank moves (in float32: with a bfloat16 teacher, images take other names); the trained student's
 * embeddings, as evaluations compute them. And on the device alone: the same steps again, and call by call instead of
 * each as a whole.
 */
export type VerifiedPart =
  'views' | 'teacher' | 'loss' | 'gradients' | 'update' | 'bank' | 'inference' | 'steps again' | 'steps call by call';

/** One comparison. */
export interface Verification {
  part: VerifiedPart;
  precision: Precision;
  /**
   * Norm of the difference from the CPU in float32 over the norm of what the CPU gives (of the bank, of how it moves
   * it): the worst of the steps. Of gradients and bank the best: rounding puts a value that is at the kink of a ReLU on
   * its other side now and then, and so moves the gradient of all before it, or takes an image that is between two
   * names for the other; what is wrong is so in every step. For the last two parts the share of values of which a bit
   * differs. NaN or infinite where the device gives no numbers.
   */
  error: number;
  /**
   * Below which it is right, for the last two parts 0: of bfloat16 twice what the CPU is off that simulates it (of the
   * loss, which is one number, three times), or a floor that rounding alone reaches; of inference in float32 five times
   * what the last bits of weights and pixels make on the CPU, or such a floor.
   */
  limit: number;
  passed: boolean;
}

/** Of float32. */
const limits = {
  views: 1e-5,
  teacher: 1e-4,
  loss: 1e-3,
  gradients: 5e-2,
  update: 5e-3,
  bank: 1e-2,
  inference: 1e-4,
} as const;
/** Of bfloat16 at least: what its 8 bits leave of values that did not cancel. */
const floors = { teacher: 1e-2, loss: 0.1, gradients: 5e-2, update: 5e-3, inference: 1e-2 } as const;

/**
 * Takes steps of a configuration on a device and on the CPU, each from the CPU's state, and compares what they leave:
 * with the kernels, the fusion and the graphs of the very shapes that a run of it has. Images are made up, and so are
 * the names; the teacher is the configuration's, if it runs natively. Of the configuration matter besides it student,
 * method, seed, threads, offline, data.resolution, loss, augment, train.batchSize (auto is 32 here), train.optimizer
 * with its numbers, train.clipNorm and train.precision: float32 is always compared, being the sharper test, and bfloat16
 * unless float32 was asked for.
 * @throws LgdError BAD_OPTION (the device is a CPU), BAD_CONFIG; those of the teacher and the devices; NON_FINITE (the
 *   CPU's own steps end without numbers); OUT_OF_MEMORY, ABORTED
 */
export async function* verifyDevice(
  input: ConfigInput,
  given: VerifyOptions,
): AsyncGenerator<Verification, void, undefined> {
  checkOptions(given, 'verifyDevice()', verifyOptions);
  const { device, categories = 1000, dimension = 512, steps = 4, onProgress, signal } = given;
  checkArgument('device', device);
  checkWhole('categories', categories, mostRows);
  checkWhole('dimension', dimension, mostEmbeddingSize);
  checkWhole('steps', steps, 1000);
  if (device.kind === 'cpu') {
    throw new LgdError('BAD_OPTION', 'the CPU is what other devices are held against.', {
      option: 'device',
      found: `cpu (${device.info.reason})`,
      allowed: 'a CUDA device',
      mend: 'Give a GPU with --device cuda; `lgdistill doctor` tells whether there is one',
    });
  }
  const config = parseConfig(input);
  checkKnownStudents(config, [config.student.name]);
  const half = precisionOf(config) !== 'float32';
  using cpu = await openDevice('cpu', { threads: config.threads });
  const benches: Bench[] = [];
  try {
    for (const one of [cpu, device]) benches.push(await Bench.open(one, config, { categories, dimension, signal }));
    const [reference, other] = benches as [Bench, Bench];
    yield judge(
      'views',
      'float32',
      wholeError([await other.views('student')], [await reference.views('student')]),
      limits.views,
    );

    const runs: Run[] = [
      [reference, 'float32'],
      [other, 'float32'],
      ...(half
        ? ([
            [reference, 'bfloat16'],
            [other, 'bfloat16'],
          ] as const)
        : []),
    ];
    const { errors, rounding } = await compare(runs, { steps, onProgress, signal });
    const [, found, simulated, foundHalf] = errors;
    for (const part of ['teacher', 'loss', 'gradients', 'update', 'bank', 'inference'] as const) {
      if (found![part] === undefined) continue; // no teacher on the device, no bank in the method
      const least = part === 'inference' ? 5 * rounding : 0;
      yield judge(part, 'float32', found![part], Math.max(limits[part], least));
      if (half && part !== 'bank')
        yield judge(
          part,
          'bfloat16',
          foundHalf![part]!,
          Math.max(floors[part], (part === 'loss' ? 3 : 2) * simulated![part]!),
        );
    }

    const precision = half ? 'bfloat16' : 'float32';
    const free = async (callByCall: boolean) => other.freely(precision, steps + warmSteps, callByCall, signal);
    const whole = await free(false);
    yield judge('steps again', precision, otherBits(await free(false), whole), 0);
    yield judge('steps call by call', precision, otherBits(await free(true), whole), 0);
  } finally {
    for (const bench of benches) await bench.dispose();
  }
}

const roundingDraws = 3;
/** The first steps run call by call and allocate; those behind them repeat a graph. */
const warmSteps = 4;

function judge(part: VerifiedPart, precision: Precision, error: number, limit: number): Verification {
  return { part, precision, error, limit, passed: limit === 0 ? error === 0 : error < limit };
}

type Run = readonly [bench: Bench, precision: Precision];

/** The errors of each run beside the first, which is right by definition, and of that one with other last bits. */
async function compare(
  runs: readonly Run[],
  { steps, onProgress, signal }: Pick<VerifyOptions, 'onProgress' | 'signal'> & { steps: number },
): Promise<{ errors: Errors[]; rounding: number }> {
  const all = runs.map((): Errors => ({}));
  const [reference] = runs[0]!;
  const distillers: Distiller[] = [];
  let rounding = 0;
  try {
    for (const [bench, precision] of runs) distillers.push(bench.distiller(precision));
    const plan = reference.plan();
    const first = plan.next();
    // compared from the second on: of an empty queue there is no loss
    const start = await distillers[0]!.state();
    let { state: before } = await reference.step(distillers[0]!, start, first, 0).catch(onTheCpu);
    // from the state of the first each: over several steps, roundings grow until nothing can be compared
    for (let step = 0; step < steps; step++) {
      throwIfAborted(signal, 'the comparison');
      const batch = plan.next();
      const expected = await reference.step(distillers[0]!, before, batch, step + 1).catch(onTheCpu);
      const { encoder, config } = distillers[0]!;
      for (const [run, [bench]] of runs.entries()) {
        if (run === 0) continue;
        const found = await bench
          .step(distillers[run]!, before, batch, step + 1)
          .catch(bench === reference ? onTheCpu : whereNoNumbers);
        const update = { graph: encoder.graph, train: config.train, learningRate: bench.learningRate };
        note(all[run]!, found ? errorsOf(found, expected, before, update) : noNumbers, bench !== reference);
      }
      before = expected.state;
      onProgress?.({ done: step + 1, total: steps });
    }
    const [shown, taught] = [await reference.views('student'), await reference.views('teacher')];
    const [embedded, embeddings] = [
      await reference.embed(shown, before.weights, 'float32'),
      await reference.teach(taught, 'float32'),
    ];
    for (let draw = 0; draw < roundingDraws; draw++) {
      const again = await reference.embed(nudged(shown, draw), nudgedWeights(before.weights, draw), 'float32');
      rounding = Math.max(rounding, wholeError([again], [embedded]));
    }
    for (const [run, [bench, precision]] of runs.entries()) {
      if (run === 0) continue;
      const found = await bench.teach(taught, precision);
      note(
        all[run]!,
        {
          inference: wholeError([await bench.embed(shown, before.weights, precision)], [embedded]),
          ...(found && { teacher: wholeError([found], [embeddings!]) }),
        },
        bench !== reference,
      );
    }
  } finally {
    for (const distiller of distillers) distiller.dispose();
  }
  return { errors: all, rounding };
}

const noNumbers: Errors = { loss: Infinity, gradients: Infinity, update: Infinity };

/** Nothing for a step whose loss is no number: of the device in question that is a finding. */
function whereNoNumbers(error: unknown): undefined {
  if (!isOfTheNumbers(error)) throw error;
}

/** Where the CPU itself has no numbers, there is nothing to hold the device against. */
function onTheCpu(error: unknown): never {
  if (!isOfTheNumbers(error)) throw error;
  throw new LgdError(
    'NON_FINITE',
    `the CPU does not come through these steps either, so there is nothing to compare: ${error.message}`,
    {
      option: 'train.batchSize',
      mend: 'Verify with more images a batch, or larger ones (data.resolution): few values leave batch norms next to nothing to divide by',
      cause: error,
    },
  );
}

/**
 * Keeps what a verdict is to be by; NaN stays.
 * @param judged whether the run is judged, and not what the limits come from, which is the worst of all
 */
function note(errors: Errors, found: Errors, judged: boolean): void {
  for (const [part, error] of Object.entries(found) as [keyof Errors, number][]) {
    errors[part] = (judged && (part === 'gradients' || part === 'bank') ? Math.min : Math.max)(
      errors[part] ?? error,
      error,
    );
  }
}
