/**
 * CIFAR-10 and CIFAR-100 in their binary version (https://www.cs.toronto.edu/~kriz/cifar.html): records of one or two
 * label bytes and 32 x 32 pixels, a plane a channel.
 */
import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LgdError } from '../errors.js';
import { isFile } from '../files/folders.js';
import { readOfMany } from './read-patiently.js';
import { importSharp } from './sharp.js';
import { numberedClasses, readClassNames, type ImageSource } from './sources.js';

const side = 32;
const planeBytes = side * side;
const pixelBytes = 3 * planeBytes;

interface Layout {
  /** Files of a folder that are taken; a single file may be any of `files`. */
  training: string[];
  files: string[];
  labelBytes: number;
  /** File of the classes' names. */
  names: string;
}

const layouts: readonly Layout[] = [
  {
    training: [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`),
    files: [...[1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`), 'test_batch.bin'],
    labelBytes: 1,
    names: 'batches.meta.txt',
  },
  { training: ['train.bin'], files: ['train.bin', 'test.bin'], labelBytes: 2, names: 'fine_label_names.txt' },
];

interface Batch {
  path: string;
  records: number;
}

/** Which of the two a path names: its folder, or one of its files. */
async function layoutOf(path: string): Promise<{ layout: Layout; paths: string[] } | undefined> {
  for (const layout of layouts) {
    if (layout.files.includes(basename(path)) && (await isFile(path))) return { layout, paths: [path] };
    const paths = layout.training.map((name) => join(path, name));
    const there = await Promise.all(paths.map(isFile));
    if (there.includes(true)) return { layout, paths: paths.filter((_, i) => there[i]) };
  }
  return undefined;
}

/** Does a path name CIFAR's binary files? */
export async function isCifar(path: string): Promise<boolean> {
  return (await layoutOf(path)) !== undefined;
}

/**
 * The images of CIFAR's binary files, each as a PNG of the same pixels: the training files of a folder, or one file.
 * Ids are `data_batch_1.bin/00017`; labels of CIFAR-100 are the fine ones.
 * @throws LgdError BAD_DATASET
 */
export async function openCifar(path: string): Promise<ImageSource> {
  const found = await layoutOf(path);
  if (found === undefined)
    throw new LgdError('BAD_DATASET', `${path} holds no binary files of CIFAR.`, {
      allowed: layouts.flatMap(({ files }) => files).join(', '),
      mend: 'Give the folder of the binary version',
    });
  const { layout, paths } = found;
  const { labelBytes, names } = layout;
  const recordBytes = labelBytes + pixelBytes;
  const ids: string[] = [];
  const labels: number[] = [];
  const records: { path: string; offset: number }[] = [];
  for (const file of paths) {
    const batch = await openBatch(file, recordBytes);
    // 30 MB or 150 MB: for the labels, which lie between the pixels
    const content = await readOfMany(file, (opened) => opened.readFile());
    for (let i = 0; i < batch.records; i++) {
      ids.push(`${basename(file)}/${String(i).padStart(5, '0')}`);
      labels.push(content[i * recordBytes + labelBytes - 1]!);
      records.push({ path: file, offset: i * recordBytes + labelBytes });
    }
  }
  const last = Math.max(...new Set(labels));
  const classNames = (await readClassNames(join(dirname(paths[0]!), names), last + 1)) ?? numberedClasses(last, path);
  return { root: path, ids, labels: Int32Array.from(labels), classNames, read: (index) => readRecord(records[index]!) };
}

async function openBatch(path: string, recordBytes: number): Promise<Batch> {
  const { size } = await stat(path);
  if (size === 0 || size % recordBytes !== 0)
    throw new LgdError('BAD_DATASET', `${path} has ${size} bytes, no multiple of a record's ${recordBytes}.`, {
      mend: 'Fetch it again: it is not whole',
    });
  return { path, records: size / recordBytes };
}

async function readRecord({ path, offset }: { path: string; offset: number }): Promise<Buffer> {
  const planes = Buffer.alloc(pixelBytes);
  const { bytesRead } = await readOfMany(path, (file) => file.read(planes, 0, pixelBytes, offset));
  if (bytesRead < pixelBytes)
    throw new LgdError('BAD_DATASET', `${path} became shorter while it was read.`, { mend: 'Fetch it again' });
  const pixels = Buffer.alloc(pixelBytes);
  for (let i = 0; i < planeBytes; i++) for (let c = 0; c < 3; c++) pixels[3 * i + c] = planes[c * planeBytes + i]!;
  const sharp = await importSharp();
  return sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .png({ compressionLevel: 1 })
    .toBuffer();
}
