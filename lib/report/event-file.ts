/**
 * TensorBoard event files: TFRecords (tensorflow/core/lib/io/record_writer.h) of Event messages
 * (tensorflow/core/util/event.proto). A record is its length (uint64, little-endian), the masked CRC32C of the length,
 * the data, and the masked CRC32C of the data.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import crc32c from 'crc-32/crc32c.js';
import { otherProtocols } from '../evaluate/score.js';
import { stepFields, type RunRecord } from './read-run.js';

/** TensorBoard groups tags by what stands before the slash. */
const tags: Readonly<Record<Exclude<(typeof stepFields)[number], 'step' | 'time'>, string>> = {
  epoch: 'train/epoch',
  learningRate: 'train/learning_rate',
  gradientNorm: 'train/gradient_norm',
  loss: 'loss/total',
  lossVisual: 'loss/visual',
  lossTextual: 'loss/textual',
  klVisual: 'kl/visual',
  klTextual: 'kl/textual',
  entropyVisual: 'target_entropy/visual',
  entropyTextual: 'target_entropy/textual',
  ownMass: 'bank/own_mass',
  agreement: 'bank/agreement',
  categoriesHit: 'bank/categories_hit',
  categoriesSeen: 'bank/categories_seen',
  imagesPerSecond: 'speed/images_per_second',
  dataWait: 'speed/data_wait',
  teacherWait: 'speed/teacher_wait',
};

const columns = Object.entries(tags) as [keyof typeof tags, string][];

/** Seconds since 1970 of the first line that has a time; 0 where none has. */
export function startOf({ steps }: RunRecord): number {
  const first = steps.time.find(Number.isFinite);
  return first === undefined ? 0 : first / 1000;
}

interface Scalar {
  tag: string;
  value: number;
}

/** A run's metrics as the records of an event file, and how many values each has. */
export function* encodeEvents(run: RunRecord): Generator<{ bytes: Buffer; scalars: number }, void, undefined> {
  const start = startOf(run);
  yield {
    bytes: record(
      new BinaryWriter()
        .tag(1, WireType.Bit64)
        .double(start)
        .tag(3, WireType.LengthDelimited)
        .string('brain.Event:2')
        .finish(),
    ),
    scalars: 0,
  };
  const event = (time: number, step: number, values: Scalar[]) => {
    const told = values.filter(({ value }) => Number.isFinite(value));
    return {
      bytes: record(encodeScalars(Number.isFinite(time) ? time / 1000 : start, step, told)),
      scalars: told.length,
    };
  };
  const { steps } = run;
  for (const [i, step] of steps.step.entries())
    yield event(
      steps.time[i]!,
      step,
      columns.map(([field, tag]) => ({ tag, value: steps[field][i]! })),
    );
  for (const { time, step, student, teacher, others } of run.evaluations) {
    const scores = [
      ['zero_shot/student', student],
      ['zero_shot/teacher', teacher],
      ...otherProtocols.map((name) => [`${name}/student`, others[name]] as const),
    ] as const;
    yield event(
      time,
      step,
      scores.flatMap(([tag, score]) =>
        score === undefined
          ? []
          : [
              { tag: `${tag}_top1`, value: score.top1 },
              { tag: `${tag}_top5`, value: score.top5 },
            ],
      ),
    );
  }
}

/**
 * Event { double wall_time = 1; int64 step = 2; Summary summary = 5 }, Summary { repeated Value value = 1 }, Value {
 * string tag = 1; float simple_value = 2 }.
 */
function encodeScalars(seconds: number, step: number, values: readonly Scalar[]): Uint8Array {
  const event = new BinaryWriter().tag(1, WireType.Bit64).double(seconds).tag(2, WireType.Varint).int64(step);
  event.tag(5, WireType.LengthDelimited).fork();
  for (const { tag, value } of values) {
    event
      .tag(1, WireType.LengthDelimited)
      .fork()
      .tag(1, WireType.LengthDelimited)
      .string(tag)
      .tag(2, WireType.Bit32)
      .float(value)
      .join();
  }
  return event.join().finish();
}

/** One TFRecord. */
function record(data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(16 + data.length);
  bytes.writeBigUInt64LE(BigInt(data.length), 0);
  bytes.writeUInt32LE(maskedCrc(bytes.subarray(0, 8)), 8);
  bytes.set(data, 12);
  bytes.writeUInt32LE(maskedCrc(data), 12 + data.length);
  return bytes;
}

/** ((crc >> 15) | (crc << 17)) + 0xa282ead8, so that a checksum of data that holds checksums stays sound. */
function maskedCrc(data: Uint8Array): number {
  const crc = crc32c.buf(data) >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
