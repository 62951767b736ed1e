import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isDiskFull } from '../../lib/files/disk-full.js';
import { halfToFloat } from '../../lib/files/safetensors-header.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { replaceOpenFile } from '../fixtures/open-file.js';
import { randomNumbers } from '../fixtures/random.js';
import { smallDisk } from '../fixtures/small-disk.js';

const folder = temporaryFolder();
const devices = await devicesUnderTest('files of embeddings');
const halves = Float32Array.from({ length: 0x3c01 }, (_, bits) => halfToFloat(bits)); // 0 to 1

/** The half nearest to a number of -1 to 1, the even one of two, by search. */
function nearestHalf(value: number): number {
  let [low, high] = [0, halves.length - 1];
  const size = Math.abs(value);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (halves[middle]! <= size) low = middle;
    else high = middle;
  }
  const [below, above] = [size - halves[low]!, halves[high]! - size];
  return Math.sign(value) * halves[below < above || (below === above && low % 2 === 0) ? low : high]!;
}

describe.each(devices)('rows of a file on $name', ({ device }) => {
  const { addon, handle } = device;
  const dimension = 37; // odd: a row is padded
  const record = 4 + 4 * Math.ceil(dimension / 2);
  const random = randomNumbers(7);
  const batch = Float32Array.from({ length: 4 * dimension }, (_, i) => (i % 5 === 0 ? 1e-4 : 20) * (random() - 0.5));

  async function rows(name: string, offset = 100) {
    const path = join(folder, `${name}-${device.kind}`);
    await writeFile(path, new Uint8Array(offset), { flag: 'a' });
    return { path, open: () => addon.openRows(handle, { path, offset, rows: 10, dimension }) };
  }

  async function through(
    call: (tensor: ReturnType<typeof addon.makeTensor>) => void,
    values: Float32Array,
  ): Promise<Float32Array> {
    const tensor = addon.makeTensor(handle, [values.length / dimension, dimension]);
    addon.writeTensor(tensor, values);
    call(tensor);
    return addon.readTensor(tensor).finally(() => addon.release(tensor));
  }

  it('are kept at length 1 in half precision, given back so, and there when it is opened again', async () => {
    const { open: openFile } = await rows('kept');
    const first = await openFile();
    expect([...first.present]).toEqual(Array(10).fill(0));
    const kept = await through(
      (tensor) => addon.keepRows(first.file, { rows: Float64Array.of(3, 0, -1, 9) }, tensor),
      batch,
    );
    for (let row = 0; row < 4; row++) {
      const values = batch.subarray(row * dimension, (row + 1) * dimension);
      const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
      values.forEach((value, d) =>
        expect(kept[row * dimension + d]).toBe(Math.fround(nearestHalf(Math.fround(value * (1 / norm))))),
      );
    }
    const other = await through(
      (tensor) => addon.keepRows(first.file, { rows: Float64Array.of(9, 1) }, tensor),
      batch.subarray(0, 2 * dimension),
    );
    expect([...other.subarray(0, dimension)]).toEqual([...kept.subarray(3 * dimension)]); // what is there stays
    addon.release(first.file);
    const second = await openFile();
    expect([...second.present]).toEqual([1, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
    const loaded = await through(
      (tensor) => addon.loadRows(second.file, { rows: Float64Array.of(9, 3) }, tensor),
      new Float32Array(2 * dimension),
    );
    expect([...loaded]).toEqual([...kept.subarray(3 * dimension), ...kept.subarray(0, dimension)]);
    addon.release(second.file);
  });

  it('that are there twice in a batch are what the first of them is', async () => {
    const [length, count] = [50_000, 32]; // so long that two threads would be at one row at once
    const openFile = () =>
      addon.openRows(handle, { path: join(folder, `twice-${device.kind}`), offset: 0, rows: 2, dimension: length });
    await writeFile(join(folder, `twice-${device.kind}`), '');
    const { file } = await openFile();
    const tensor = addon.makeTensor(handle, [count, length]);
    // the first two rows have no direction
    addon.writeTensor(
      tensor,
      Float32Array.from({ length: count * length }, (_, i) => (i < 2 * length ? 0 : Math.sin(i))),
    );
    addon.keepRows(file, { rows: Float64Array.from({ length: count }, (_, i) => i % 2) }, tensor);
    const kept = await addon.readTensor(tensor);
    addon.release(tensor);
    const row = (i: number) => Buffer.from(kept.buffer, 4 * i * length, 4 * length);
    expect(row(0).every((byte) => byte === 0)).toBe(true);
    for (let i = 2; i < count; i++) expect(row(i).equals(row(2 + (i % 2))), `place ${i}`).toBe(true);
    addon.release(file);
    const { present, damaged, file: again } = await openFile();
    expect([[...present], damaged]).toEqual([[1, 1], 0]);
    addon.release(again);
  });

  it('without a direction are left alone and not kept', async () => {
    const { open: openFile } = await rows('none');
    const { file } = await openFile();
    const values = new Float32Array(2 * dimension);
    values[dimension + 5] = NaN;
    const kept = await through((tensor) => addon.keepRows(file, { rows: Float64Array.of(1, 2) }, tensor), values);
    expect([...kept]).toEqual([...values]);
    addon.release(file);
    expect([...(await openFile()).present]).toEqual(Array(10).fill(0));
  });

  it('that were damaged are absent; those that are absent cannot be read, and others do not exist', async () => {
    const { path, open: openFile } = await rows('damaged');
    const first = await openFile();
    await through((tensor) => addon.keepRows(first.file, { rows: Float64Array.of(0, 1, 2, 3) }, tensor), batch);
    addon.release(first.file);
    const writer = await open(path, 'r+');
    await writer.write(Uint8Array.of(0x5a, 0x5a), 0, 2, 100 + 2 * record + 11);
    await writer.close();
    const { file, present, damaged } = await openFile();
    expect([...present].slice(0, 4)).toEqual([1, 1, 0, 1]);
    expect(damaged).toBe(1);
    const read = (row: number) =>
      through((tensor) => addon.loadRows(file, { rows: Float64Array.of(row) }, tensor), new Float32Array(dimension));
    await expect(read(2)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('row 2') as unknown,
    });
    await expect(read(10)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('has 10') as unknown,
    });
    await expect(read(-1)).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(
      through((tensor) => addon.loadRows(file, { rows: Float64Array.of(0, 1) }, tensor), new Float32Array(dimension)),
    ).rejects.toMatchObject({ code: 'BAD_SHAPE' });
    await (await open(path, 'r+').then(async (cut) => (await cut.truncate(200), cut))).close();
    await expect(read(0)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('became shorter') as unknown,
    });
  });

  it('of a file that is not there, or has no room, are an error that says so', async () => {
    const openAt = (path: string, count: number) => addon.openRows(handle, { path, offset: 0, rows: count, dimension });
    await expect(openAt(join(folder, 'nowhere'), 10)).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('nowhere') as unknown,
    });
    const { path } = await rows('huge');
    await expect(openAt(path, 2 ** 45)).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringMatching(/cannot make .* MiB long/u) as unknown,
      cause: { errno: expect.any(Number) as unknown },
    });
  });

  it('of a file whose length the system does not tell any more are an error with its reason', async () => {
    const { path, open: openFile } = await rows('lost');
    const { file } = await openFile();
    replaceOpenFile(path, join(folder, `pipe-${device.kind}`));
    await expect(
      through((tensor) => addon.loadRows(file, { rows: Float64Array.of(0) }, tensor), new Float32Array(dimension)),
    ).rejects.toMatchObject({ code: 'BAD_FILE', message: expect.stringContaining('Illegal seek') as unknown });
    addon.release(file);
  });
});

const full = smallDisk('rows of a file on a full disk', 2 ** 20);
it.skipIf(full === undefined)(
  'rows that a full disk has no room for are an error that is told by its number',
  async () => {
    const { addon, handle } = devices[0]!.device;
    const path = join(full!, 'rows');
    await writeFile(path, '');
    const opened = addon.openRows(handle, { path, offset: 0, rows: 2 ** 20, dimension: 4 });
    await expect(opened).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    expect(isDiskFull(await opened.catch((error: unknown) => error))).toBe(true);
  },
);
