import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import type { BankLossInput } from '../../lib/semantic/types.js';
import { randomNumbers } from '../fixtures/random.js';
import { backends } from '../fixtures/semantic/backends.js';
import { relativeError } from '../fixtures/semantic/cases.js';
import { testPath } from '../shared.js';

/**
 * A native device reads a caller's arrays where they lie and answers what the reference does of values that cannot be
 * used.
 */
const native = (await backends('arrays read where they lie')).filter(({ device }) => device !== 'js');
// more values than one part of the check takes, and a row that ends inside a vector
const [batch, categories, dimension] = [9, 300, 301];

function rows(count: number, seed: number): Float32Array {
  const random = randomNumbers(seed);
  return Float32Array.from({ length: count * dimension }, () => 2 * random() - 0.8);
}

const loss = (): BankLossInput => ({
  student: rows(batch, 1),
  teacher: rows(batch, 2),
  textual: rows(categories, 3),
  visual: rows(categories, 4),
  queue: rows(20, 5),
  dimension,
  studentTemperature: 0.2,
  teacherTemperature: 0.05,
  alpha: 0.4,
});
const update = () => ({
  teacher: rows(batch, 2),
  textual: rows(categories, 3),
  visual: rows(categories, 4),
  seen: new Uint8Array(categories).fill(7, 4),
  dimension,
  momentum: 0.9,
});

function changed(values: Float32Array | undefined, row: number, column: number, value: number): Float32Array {
  const copy = values!.slice();
  copy[row * dimension + column] = value;
  return copy;
}

const zeroRow = (values: Float32Array | undefined, row: number) =>
  values!.slice().fill(-0, row * dimension, (row + 1) * dimension);

describe.each(native)('$name', ({ device, precision, tolerance }) => {
  test.each<[string, Partial<BankLossInput>]>([
    ['not a number in the last column', { textual: changed(loss().textual, 257, dimension - 1, NaN) }],
    ['an infinite value in the last row', { visual: changed(loss().visual, categories - 1, 17, -Infinity) }],
    [
      'two wrong rows: the first is named',
      { textual: changed(changed(loss().textual, 290, 3, NaN), 230, 4, Infinity) },
    ],
    ['zero, and in a later row not a number', { queue: changed(zeroRow(loss().queue, 6), 11, 0, NaN) }],
    ['not a number, and a later row of zeros', { queue: changed(zeroRow(loss().queue, 11), 6, 0, NaN) }],
    ['a row of zeros with a sign', { student: zeroRow(loss().student, 8) }],
    ['two arguments: the first is named', { teacher: zeroRow(loss().teacher, 0), queue: zeroRow(loss().queue, 0) }],
  ])('is told apart as by the reference: %s', async (_, wrong) => {
    const input = { ...loss(), ...wrong };
    const expected = await bankLoss(input, { device: 'js' }).catch((error: unknown) => error as Error);
    expect(expected).toBeInstanceOf(Error);
    const { message, code, details } = expected as Error & { code: string; details?: unknown };
    await expect(bankLoss(input, { device, precision })).rejects.toMatchObject({
      code,
      message,
      ...(details !== undefined && { details }),
    });
  });

  test.each<[string, object]>([
    ['the teacher', { teacher: changed(update().teacher, 3, 5, NaN) }],
    ['the textual bank', { textual: zeroRow(update().textual, 299) }],
    ['the visual bank', { visual: changed(update().visual, 12, 0, Infinity) }],
  ])('the update too: %s', async (_, wrong) => {
    const input = { ...update(), ...wrong };
    const expected = await bankUpdate(input, { device: 'js' }).catch((error: unknown) => error as Error);
    expect(expected).toBeInstanceOf(Error);
    const { message, code } = expected as Error & { code: string };
    await expect(bankUpdate(input, { device })).rejects.toMatchObject({ code, message });
  });

  test('the smallest values have a direction, and an anchor of zeros is an anchor', async () => {
    const tiny = loss().student.fill(2 ** -130, 0, dimension); // below the smallest normal number
    const input = { ...loss(), student: tiny, visual: zeroRow(loss().visual, 1) };
    const expected = await bankLoss(input, { device: 'js' });
    const found = await bankLoss(input, { device, precision });
    expect(relativeError([found.loss], [expected.loss])).toBeLessThan(Math.max(1e-4, tolerance));
  });

  test('arrays may lie anywhere: inside others, in shared memory', async () => {
    const plain = loss();
    const expected = await bankLoss(plain, { device, precision });
    const inside = (values: Float32Array, buffer: ArrayBufferLike, offset: number) => {
      const view = new Float32Array(buffer, offset, values.length);
      view.set(values);
      return view;
    };
    const moved = {
      ...plain,
      student: inside(plain.student, new ArrayBuffer(plain.student.byteLength + 40), 12),
      textual: inside(plain.textual!, new SharedArrayBuffer(plain.textual!.byteLength + 64), 4),
      visual: inside(plain.visual!, new SharedArrayBuffer(plain.visual!.byteLength), 0),
    };
    const found = await bankLoss(moved, { device, precision });
    expect(found.loss).toBe(expected.loss);
    expect(Buffer.compare(Buffer.from(found.gradient.buffer), Buffer.from(expected.gradient.buffer))).toBe(0);
    expect(moved.student).toEqual(plain.student);
  });

  test('the update leaves its arguments as they were, and its results are new', async () => {
    const input = update();
    const before = structuredClone(input);
    const result = await bankUpdate(input, { device });
    expect(input).toEqual(before);
    expect(result.visual.buffer).not.toBe(input.visual.buffer);
    expect([...new Set(result.seen)].toSorted()).toEqual([0, 1]);
  });

  test('calls may wait for each other: each gets its own results', async () => {
    const inputs = Array.from({ length: 6 }, (_, at) => ({ ...loss(), student: rows(batch, 50 + at) }));
    const alone = [];
    for (const input of inputs) alone.push(await bankLoss(input, { device, precision }));
    const together = await Promise.all(inputs.map((input) => bankLoss(input, { device, precision })));
    expect(together).toEqual(alone);
  });
});

test('a worker that ends in the middle of a call takes nothing with it', async () => {
  const code = `
    const { parentPort } = require('node:worker_threads');
    const { bankLoss, openDevice } = require(${JSON.stringify(testPath('..', 'dist', 'index.cjs'))});
    (async () => {
      const device = await openDevice('cpu', { threads: 2 });
      const rows = (count) => new Float32Array(count * 512).map((_, i) => Math.sin(i + 1));
      const input = { student: rows(256), teacher: rows(256), textual: rows(4000), visual: rows(4000), dimension: 512, alpha: 0.5, studentTemperature: 1, teacherTemperature: 1 };
      for (let i = 0; i < 5; i++) void bankLoss(input, { device });
      parentPort.postMessage('calling');
    })();`;
  for (let round = 0; round < 4; round++) {
    const worker = new Worker(code, { eval: true });
    await once(worker, 'message');
    await new Promise((resolve) => setTimeout(resolve, 15 * round));
    expect(await worker.terminate()).toBe(1);
  }
});
