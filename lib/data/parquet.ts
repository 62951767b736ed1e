/**
 * Parquet files with a column of images, as the Hugging Face hub has them: a column of `{ bytes, path }` or of plain
 * bytes, and a column of whole numbers for the labels, whose names stand in the files' metadata.
 */
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { FileMetaData, SchemaTree } from 'hyparquet';
import { LgdError } from '../errors.js';
import { filesAt } from '../files/folders.js';
import { inOrder } from './in-order.js';
import { readParquet } from './parquet-thread.js';
import { readOfMany } from './read-patiently.js';
import { numberedClasses, type ImageSource } from './sources.js';

const imageColumns = ['image', 'img', 'jpg', 'jpeg', 'png', 'webp', 'bytes', 'pixels'];
const labelColumns = ['label', 'labels', 'fine_label', 'cls', 'class'];

const fewRows = 100_000;
const filesAtOnce = 16; // each is open while its footer is read

interface ParquetFile {
  path: string;
  metadata: FileMetaData;
  columns: SchemaTree[];
}

/** Rows of a file that are stored, and so read, together. */
interface RowGroup {
  file: ParquetFile;
  metadata: FileMetaData['row_groups'][number];
  /** First row in the file, and among all images. */
  from: number;
  first: number;
  rows: number;
}

/**
 * The images of parquet files, file after file in the order of their names. Ids are `train-00000.parquet/000017`. They
 * are read a row group at a time: in any other order than this, pack them first.
 * @throws LgdError FILE_NOT_FOUND, BAD_DATASET (no column of images, damaged, labels without names)
 */
export async function openParquet(path: string, { labelled }: { labelled: boolean }): Promise<ImageSource> {
  const files = await openFiles(path);
  const column = imageColumnOf(files[0]!);
  const groups = rowGroupsOf(files);
  const ids = groups.flatMap(({ file, from, rows }) =>
    Array.from({ length: rows }, (_, i) => `${basename(file.path)}/${String(from + i).padStart(6, '0')}`),
  );
  if (ids.length === 0)
    throw new LgdError('BAD_DATASET', `there are no rows in ${path}.`, { mend: 'Give parquet files with images' });
  const reader = new GroupReader(groups, column);
  return {
    root: path,
    ids,
    ...(labelled && (await labelsOf(files, path))),
    sequential: true,
    read: (index) => reader.read(index),
  };
}

async function openFiles(path: string): Promise<ParquetFile[]> {
  const files: ParquetFile[] = [];
  for await (const file of inOrder(await filesAt(path, '.parquet'), filesAtOnce, openFile)) files.push(file);
  return files;
}

async function openFile(path: string): Promise<ParquetFile> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetSchema } = await import('hyparquet');
  if (!(await stat(path)).isFile())
    throw new LgdError('BAD_DATASET', `${path} is no regular file.`, {
      mend: 'Write what it gives into a file, and give that',
    });
  return readOfMany(path, async () => {
    try {
      const buffer = await asyncBufferFromFile(path);
      const metadata = await parquetMetadataAsync(buffer);
      checkRowCounts(metadata, buffer.byteLength);
      return { path, metadata, columns: parquetSchema(metadata).children };
    } catch (cause) {
      throw new LgdError('BAD_DATASET', `${path} is no parquet file, or damaged: ${(cause as Error).message}.`, {
        mend: 'Fetch it again',
        cause,
      });
    }
  });
}

/**
 * What else is made of them would take time and memory for rows that are not there. Rows that repeat each other may be
 * less than a byte each; so many cost little, whether they are there or not.
 * @throws Error
 */
export function checkRowCounts({ row_groups: groups, num_rows: all }: FileMetaData, bytes: number): void {
  const rows = groups.map(({ num_rows: count }) => Number(count));
  const sum = rows.reduce((total, count) => total + count, 0);
  if (rows.some((count) => !(count >= 0)) || sum !== Number(all) || sum > Math.max(bytes, fewRows))
    throw new Error(`it tells of ${sum} rows in ${bytes} bytes`);
}

function imageColumnOf({ path, columns }: ParquetFile): string {
  const holdsImages = ({ element, children }: SchemaTree) =>
    children.length === 0 ? element.type === 'BYTE_ARRAY' : children.some(({ element: { name } }) => name === 'bytes');
  const fitting = columns.filter(holdsImages).map(({ element }) => element.name);
  const chosen =
    imageColumns.find((name) => fitting.includes(name)) ??
    columns.find(({ children }) => children.length > 0 && children.some(({ element: { name } }) => name === 'bytes'))
      ?.element.name;
  if (chosen !== undefined) return chosen;
  throw new LgdError(
    'BAD_DATASET',
    `${path} has no column of images; it has ${columns.map(({ element: { name } }) => name).join(', ')}.`,
    {
      allowed: `a column {bytes, path}, or one of bytes named ${imageColumns.join(', ')}`,
      mend: 'Give parquet files with images in them',
    },
  );
}

function rowGroupsOf(files: readonly ParquetFile[]): RowGroup[] {
  const groups: RowGroup[] = [];
  let first = 0;
  for (const file of files) {
    let from = 0;
    for (const metadata of file.metadata.row_groups) {
      const rows = Number(metadata.num_rows);
      groups.push({ file, metadata, from, first, rows });
      from += rows;
      first += rows;
    }
  }
  return groups;
}

async function labelsOf(
  files: readonly ParquetFile[],
  root: string,
): Promise<Pick<ImageSource, 'labels' | 'classNames' | 'remarks'>> {
  const { columns } = files[0]!;
  const name = labelColumns.find((label) =>
    columns.some(({ element }) => element.name === label && (element.type === 'INT64' || element.type === 'INT32')),
  );
  if (name === undefined) {
    const other = columns.find(({ element }) => labelColumns.includes(element.name));
    return other === undefined
      ? {}
      : {
          remarks: [
            `the column ${other.element.name} of ${root} holds no whole numbers (${other.element.type ?? 'a group'}), so all images count as unlabelled`,
          ],
        };
  }
  const labels: number[] = [];
  for (const file of files) for (const value of await readParquet(file, name)) labels.push(Number(value ?? -1));
  // -1 is how the hub writes that there is none, others leave the cell empty
  const without = labels.filter((label) => !(label >= 0)).length;
  if (without === labels.length) return {};
  if (without > 0)
    return {
      remarks: [`${without} of the ${labels.length} images of ${root} have no ${name}, so all count as unlabelled`],
    };
  const last = labels.reduce((most, label) => Math.max(most, label), -1);
  const classNames = namesOf(files[0]!, name) ?? numberedClasses(last, root);
  if (last >= classNames.length) {
    throw new LgdError(
      'BAD_DATASET',
      `row ${labels.indexOf(last)} of ${root} has the ${name} ${last}, and ${classNames.length} classes have names in ${files[0]!.path}.`,
      {
        allowed: `from 0 to ${classNames.length - 1}; -1 or none where an image has none`,
        mend: `Correct the column ${name}, or take the images without labels`,
      },
    );
  }
  return { labels: Int32Array.from(labels), classNames };
}

/** The classes' names, as Hugging Face's datasets writes them. */
function namesOf({ metadata }: ParquetFile, column: string): string[] | undefined {
  const text = metadata.key_value_metadata?.find(({ key }) => key === 'huggingface')?.value;
  try {
    const { info } = JSON.parse(text ?? '') as {
      info: { features: Record<string, { names?: string[] | Record<string, string> }> };
    };
    const names = info.features[column]?.names;
    return names === undefined ? undefined : Object.values(names);
  } catch {
    return undefined;
  }
}

const groupsKept = 2; // what is read in order needs the group it is in, and soon the next

class GroupReader {
  readonly #kept = new Map<RowGroup, Promise<unknown[]>>();

  constructor(
    readonly groups: readonly RowGroup[],
    readonly column: string,
  ) {}

  async read(index: number): Promise<Buffer> {
    const group = this.#groupOf(index);
    const rows = await this.#rowsOf(group);
    const value = rows[index - group.first] as Uint8Array | { bytes?: Uint8Array } | null | undefined;
    const bytes = value instanceof Uint8Array ? value : value?.bytes;
    if (bytes === undefined || bytes === null) throw new LgdError('BAD_IMAGE', 'the row holds no bytes.');
    return Buffer.from(bytes); // a copy, so that one image does not keep its whole group
  }

  #groupOf(index: number): RowGroup {
    let [low, high] = [0, this.groups.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.groups[middle]!.first <= index) low = middle;
      else high = middle - 1;
    }
    return this.groups[low]!;
  }

  #rowsOf(group: RowGroup): Promise<unknown[]> {
    let rows = this.#kept.get(group);
    if (rows === undefined) {
      const { file, metadata } = group;
      rows = readParquet(
        { path: file.path, metadata: { ...file.metadata, row_groups: [metadata], num_rows: metadata.num_rows } },
        this.column,
      );
      rows.catch(() => this.#kept.delete(group)); // another attempt reads anew
      this.#kept.set(group, rows);
      for (const other of [...this.#kept.keys()].slice(0, -groupsKept)) this.#kept.delete(other);
    }
    return rows;
  }
}
