/** What a checkpoint's folder holds: the student, its bank and the state, and a manifest with the checksum of every file. */
import { realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { SemanticState } from '../addon/native.js';
import { TextualSemanticsBank } from '../banks/textual.js';
import { LgdError } from '../errors.js';
import { hashFile } from '../files/hash-file.js';
import { writeJson } from '../files/json.js';
import {
  badCheckpoint,
  checkFile,
  manifestFile,
  manifestFormat,
  readManifest,
  takeAnother,
  type Manifest,
} from '../files/manifest.js';
import { SafetensorsReader } from '../files/safetensors-reader.js';
import { readSafetensors, writeSafetensors, type TensorRecord } from '../files/safetensors.js';
import { syncFolder } from '../files/sync.js';
import type { GraphSpec } from '../models/graph.js';
import { studentContent } from '../models/student-info.js';
import type { WeightRecord } from '../models/weights.js';
import { version } from '../package.js';
import { studentFile, writeStudent, type StudentInfo } from './student-file.js';

/** Everything that the next step of an online probe's classifier depends on. */
export type OnlineState = Record<'weights' | 'bias' | 'weightsMomentum' | 'biasMomentum', Float32Array>;

/** What a checkpoint holds: all that the next step depends on. */
export interface CheckpointContent {
  info: StudentInfo;
  /** The student's parameters and buffers. */
  weights: WeightRecord;
  /** What moved its parameters. */
  optimizer: 'sgd' | 'adamw';
  /** Momentum of its parameters; AdamW's first moment. */
  momentum: WeightRecord;
  /** AdamW's alone. */
  secondMoment?: WeightRecord | undefined;
  /** undefined for methods seed and feature without names. */
  bank: TextualSemanticsBank | undefined;
  /** Visual anchors, seen flags and queue; the textual rows are the bank's. */
  semantic: SemanticState;
  /** Of the online probe, where there is one. */
  online?: OnlineState;
  /** Plain data of the loop: sampler position, best metric, recent losses. */
  progress: unknown;
}

const stateFile = 'state.safetensors';
const bankFile = 'bank.safetensors';
const stateFormat = 'lgdistill-state';
const onlinePrefix = 'online.';
const momentPrefixes = { momentum: 'momentum.', secondMoment: 'second_moment.' } as const;
type Moment = keyof typeof momentPrefixes;

/** About what a checkpoint takes on the disk. */
export function bytesOf({
  weights,
  momentum,
  secondMoment = {},
  bank,
  semantic: { visual, seen, queue },
}: CheckpointContent): number {
  const arrays = [
    ...[weights, momentum, secondMoment].flatMap((record) => Object.values(record).map(({ data }) => data)),
    bank?.data,
    visual,
    seen,
    queue,
  ];
  return arrays.reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
}

/** Writes all of it into an empty folder, the manifest last. @throws what the system does; LgdError NOT_WRITABLE */
export async function writeContent(folder: string, content: CheckpointContent, best: Manifest['best']): Promise<void> {
  const { info, weights, optimizer, bank, semantic, online, progress } = content;
  await writeStudent(join(folder, studentFile), info, weights);
  await bank?.save(join(folder, bankFile));
  const rows = (data: Float32Array): TensorRecord => ({
    shape: [data.length / info.embeddingSize, info.embeddingSize],
    data,
  });
  const tensors: [string, TensorRecord][] = (Object.keys(momentPrefixes) as Moment[]).flatMap((moment) =>
    Object.entries(content[moment] ?? {}).map(([name, tensor]): [string, TensorRecord] => [
      `${momentPrefixes[moment]}${name}`,
      tensor,
    ]),
  );
  if (semantic.visual !== undefined) tensors.push(['visual_bank', rows(semantic.visual)]);
  if (semantic.seen !== undefined) tensors.push(['seen', { shape: [semantic.seen.length], data: semantic.seen }]);
  if (semantic.queue !== undefined) tensors.push(['queue', rows(semantic.queue)]);
  for (const [name, data] of Object.entries<Float32Array>({ ...online }))
    tensors.push([`${onlinePrefix}${name}`, { shape: [data.length], data }]);
  await writeSafetensors(join(folder, stateFile), tensors, {
    format: stateFormat,
    version,
    optimizer,
    queuePosition: String(semantic.queuePosition ?? 0),
    queueFilled: String(semantic.queueFilled ?? 0),
    progress: JSON.stringify(progress),
  });
  const files: Manifest['files'] = {};
  for (const name of [studentFile, stateFile, ...(bank === undefined ? [] : [bankFile])]) {
    const path = join(folder, name);
    files[name] = { bytes: (await stat(path)).size, sha256: await hashFile(path) };
  }
  const manifest: Manifest = { format: manifestFormat, version, step: info.step, epoch: info.epoch, best, files };
  await writeJson(join(folder, manifestFile), manifest);
  await syncFolder(folder);
}

/** The student in a checkpoint, as it lies there. @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL */
async function readUnchecked(folder: string): Promise<ReturnType<typeof studentContent>> {
  const file = join(folder, studentFile);
  return studentContent(await readSafetensors(file), file);
}

/**
 * Reads a checkpoint folder after checking every file against the manifest.
 * @throws LgdError BAD_CHECKPOINT naming the file at fault
 */
export async function readCheckpoint(given: string): Promise<CheckpointContent & { folder: string }> {
  const folder = await realpath(given).catch(() => given); // `last` moves while a run goes on
  const manifest = await readManifest(folder);
  for (const name of [studentFile, stateFile])
    if (manifest.files[name] === undefined) throw badCheckpoint(join(folder, manifestFile), `it does not list ${name}`);
  await checkFiles(folder, manifest);
  try {
    const { info, weights } = await readUnchecked(folder);
    const { tensors, metadata } = await readSafetensors(join(folder, stateFile));
    const below = (prefix: string): WeightRecord =>
      Object.fromEntries(
        [...tensors].flatMap(([name, { shape, data }]) =>
          name.startsWith(prefix) ? [[name.slice(prefix.length), { shape, data: data as Float32Array }] as const] : [],
        ),
      );
    const optimizer = metadata['optimizer'] ?? 'sgd'; // early checkpoints do not say, and SGD left them
    if (optimizer !== 'sgd' && optimizer !== 'adamw')
      throw new LgdError('BAD_CHECKPOINT', `its optimiser ${optimizer} is none of this version's.`, {
        mend: 'Resume with the version that wrote it',
      });
    const moments = {
      momentum: below(momentPrefixes.momentum),
      ...(optimizer === 'adamw' && { secondMoment: below(momentPrefixes.secondMoment) }),
    };
    const semantic: SemanticState = {
      visual: tensors.get('visual_bank')?.data as Float32Array | undefined,
      seen: tensors.get('seen')?.data as Uint8Array | undefined,
      queue: tensors.get('queue')?.data as Float32Array | undefined,
      queuePosition: Number(metadata['queuePosition']),
      queueFilled: Number(metadata['queueFilled']),
    };
    const probe = [...tensors].flatMap(([name, { data }]) =>
      name.startsWith(onlinePrefix) ? [[name.slice(onlinePrefix.length), data as Float32Array] as const] : [],
    );
    const online = probe.length === 0 ? undefined : (Object.fromEntries(probe) as OnlineState);
    const bank =
      manifest.files[bankFile] === undefined ? undefined : await TextualSemanticsBank.load(join(folder, bankFile));
    return {
      folder,
      info,
      weights,
      optimizer,
      ...moments,
      bank,
      semantic,
      online,
      progress: JSON.parse(metadata['progress'] ?? 'null') as unknown,
    };
  } catch (cause) {
    throw new LgdError('BAD_CHECKPOINT', `the checkpoint ${folder} cannot be used: ${(cause as Error).message}`, {
      mend: takeAnother,
      cause,
    });
  }
}

/** @throws LgdError BAD_CHECKPOINT */
async function checkFiles(folder: string, { files }: Manifest): Promise<void> {
  for (const [name, expected] of Object.entries(files)) await checkFile(join(folder, name), expected);
}

/** Is every file of a checkpoint what its manifest says? */
export async function isSound(folder: string): Promise<boolean> {
  return readManifest(folder)
    .then((manifest) => checkFiles(folder, manifest))
    .then(
      () => true,
      () => false,
    );
}

/** The text bank in a checkpoint, as it lies there; undefined where there is none or it cannot be read. */
export async function bankIn(folder: string): Promise<TextualSemanticsBank | undefined> {
  return TextualSemanticsBank.load(join(folder, bankFile)).catch(() => undefined);
}

/**
 * The same of the student's graph: undefined also where its name tells it, as a file's header says, and its weights are
 * not read.
 */
export async function graphIn(folder: string): Promise<GraphSpec | undefined> {
  try {
    await using reader = await SafetensorsReader.open([join(folder, studentFile)]);
    return reader.metadata['graph'] === undefined ? undefined : (await readUnchecked(folder)).info.graph;
  } catch {
    return undefined;
  }
}
