import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { MemoryQueue } from '../../lib/banks/memory.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { drawStartBank, takeStartBank, VisualSemanticsBank } from '../../lib/banks/visual.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import type { BankLossInput, BankUpdateInput } from '../../lib/semantic/types.js';
import { randomNumbers } from '../fixtures/random.js';
import { relativeError } from '../fixtures/semantic/cases.js';

const device = 'js';

function rows(count: number, dimension: number, seed: number): Float32Array {
  const random = randomNumbers(seed);
  return Float32Array.from({ length: count * dimension }, () => 2 * random() - 0.8);
}

const lossInput = (): BankLossInput => ({
  student: rows(3, 6, 1),
  teacher: rows(3, 6, 2),
  textual: rows(4, 6, 3),
  visual: rows(4, 6, 4),
  queue: rows(2, 6, 5),
  dimension: 6,
  studentTemperature: 0.3,
  teacherTemperature: 0.1,
  alpha: 0.4,
});
const updateInput = (): BankUpdateInput => ({
  teacher: rows(3, 6, 2),
  textual: rows(4, 6, 3),
  visual: rows(4, 6, 4),
  seen: Uint8Array.of(0, 1, 0, 1),
  dimension: 6,
  momentum: 0.9,
});

/** An array with one value changed. */
function changed(values: Float32Array, at: number, value: number): Float32Array {
  const copy = values.slice();
  copy[at] = value;
  return copy;
}

describe('the gradient', () => {
  test('is the slope of the loss', async () => {
    const input = lossInput();
    const { gradient } = await bankLoss(input, { device });
    const step = 2 ** -8; // exact in float32 beside values near 1
    const slopes: number[] = [];
    for (let i = 0; i < input.student.length; i++) {
      const at = input.student[i]!;
      const [up, down] = [Math.fround(at + step), Math.fround(at - step)];
      const above = await bankLoss({ ...input, student: changed(input.student, i, up) }, { device });
      const below = await bankLoss({ ...input, student: changed(input.student, i, down) }, { device });
      slopes.push((above.loss - below.loss) / (up - down));
    }
    expect(relativeError(gradient, slopes)).toBeLessThan(1e-4);
  });

  test('has no part along the embedding: its length does not matter', async () => {
    const input = lossInput();
    const { gradient } = await bankLoss(input, { device });
    for (let i = 0; i < 3; i++) {
      let along = 0;
      for (let d = 0; d < 6; d++) along += gradient[i * 6 + d]! * input.student[i * 6 + d]!;
      expect(Math.abs(along)).toBeLessThan(1e-7);
    }
  });

  test('mixes the parts by alpha', async () => {
    const input = lossInput();
    const mixed = await bankLoss(input, { device });
    const visual = await bankLoss({ ...input, textual: undefined, alpha: 1 }, { device });
    const textual = await bankLoss({ ...input, visual: undefined, queue: undefined, alpha: 0 }, { device });
    expect(mixed.lossVisual).toBeCloseTo(visual.lossVisual, 12);
    expect(mixed.lossTextual).toBeCloseTo(textual.lossTextual, 12);
    expect(mixed.loss).toBeCloseTo(0.4 * visual.loss + 0.6 * textual.loss, 12);
    expect(
      relativeError(
        mixed.gradient,
        visual.gradient.map((value, i) => 0.4 * value + 0.6 * textual.gradient[i]!),
      ),
    ).toBeLessThan(1e-6);
    expect([textual.lossVisual, textual.klVisual, visual.lossTextual, visual.klTextual]).toEqual([0, 0, 0, 0]);
  });

  test('treats queue rows and visual anchors alike', async () => {
    const { textual, ...input } = lossInput();
    const joined = Float32Array.of(...input.visual!, ...input.queue!);
    const apart = await bankLoss({ ...input, alpha: 1 }, { device });
    const together = await bankLoss({ ...input, visual: undefined, queue: joined, alpha: 1 }, { device });
    expect(textual).toBeDefined();
    expect(together.loss).toBeCloseTo(apart.loss, 12);
    expect(relativeError(together.gradient, apart.gradient)).toBeLessThan(1e-6);
  });
});

describe('arguments that cannot be used', () => {
  const nan = changed(rows(3, 6, 1), 13, NaN);
  const zero = rows(3, 6, 1).fill(0, 6, 12);
  test.each<[string, Partial<BankLossInput>, string, string, RegExp?]>([
    ['a ragged student', { student: new Float32Array(17) }, 'BAD_SHAPE', 'student'],
    ['no images', { student: new Float32Array(0), teacher: new Float32Array(0) }, 'BAD_SHAPE', 'student'],
    ['fewer teachers', { teacher: rows(2, 6, 2) }, 'BAD_SHAPE', 'teacher'],
    ['more teachers', { teacher: rows(4, 6, 2) }, 'BAD_SHAPE', 'teacher'],
    ['a ragged queue', { queue: new Float32Array(5) }, 'BAD_SHAPE', 'queue'],
    ['banks of two sizes', { visual: rows(5, 6, 4) }, 'BAD_SHAPE', 'visual'],
    ['a broken dimension', { dimension: 0 }, 'BAD_SHAPE', 'dimension'],
    ['numbers in a plain array', { student: [1, 2, 3, 4, 5, 6] as unknown as Float32Array }, 'BAD_OPTION', 'student'],
    ['no student', { student: undefined }, 'BAD_OPTION', 'student'],
    ['a value that is not a number', { student: nan }, 'NON_FINITE', 'student', /row 2 .*NaN in column 1/u],
    ['an infinite teacher', { teacher: changed(rows(3, 6, 2), 0, Infinity) }, 'NON_FINITE', 'teacher', /row 0/u],
    ['an infinite anchor', { visual: changed(rows(4, 6, 2), 23, -Infinity) }, 'NON_FINITE', 'visual', /row 3/u],
    [
      'a student beyond float32',
      { student: rows(3, 6, 1).fill(3e38, 12) },
      'NON_FINITE',
      'student',
      /row 2 is longer/u,
    ],
    ['a zero student', { student: zero }, 'ZERO_EMBEDDING', 'student', /row 1/u],
    ['a zero teacher', { teacher: zero }, 'ZERO_EMBEDDING', 'teacher', /row 1/u],
    ['a zero text', { textual: rows(4, 6, 1).fill(0, 18) }, 'ZERO_EMBEDDING', 'textual', /row 3/u],
    ['a temperature of 0', { teacherTemperature: 0 }, 'BAD_OPTION', 'teacherTemperature'],
    ['an infinite temperature', { studentTemperature: Infinity }, 'BAD_OPTION', 'studentTemperature'],
    [
      'a temperature that float32 has not',
      { studentTemperature: 1e-300 },
      'BAD_OPTION',
      'studentTemperature',
      /Allowed: a number from 1e-9 to 1e9/u,
    ],
    ['a weight above 1', { alpha: 1.01 }, 'BAD_OPTION', 'alpha'],
    ['a weight in words', { alpha: '0.5' as unknown as number }, 'BAD_OPTION', 'alpha'],
    ['a weight that is no number', { alpha: NaN }, 'BAD_OPTION', 'alpha'],
    ['a weight for no textual bank', { textual: undefined }, 'BAD_OPTION', 'alpha'],
    ['a weight for no visual part', { visual: new Float32Array(0), queue: undefined }, 'BAD_OPTION', 'alpha'],
  ])('%s', async (_, change, code, option, message = /./u) => {
    await expect(bankLoss({ ...lossInput(), ...change }, { device })).rejects.toMatchObject({
      code,
      option,
      message: expect.stringMatching(message) as string,
    });
  });

  test.each<[string, Partial<BankUpdateInput>, string, string]>([
    ['too few flags', { seen: new Uint8Array(3) }, 'BAD_SHAPE', 'seen'],
    ['too many flags', { seen: new Uint8Array(5) }, 'BAD_SHAPE', 'seen'],
    ['fewer texts than anchors', { visual: rows(5, 6, 1) }, 'BAD_SHAPE', 'visual'],
    ['flags of another type', { seen: [0, 1, 0, 1] as unknown as Uint8Array }, 'BAD_OPTION', 'seen'],
    ['banks of two sizes', { visual: rows(3, 6, 1) }, 'BAD_SHAPE', 'visual'],
    [
      'no categories',
      { textual: new Float32Array(0), visual: new Float32Array(0), seen: new Uint8Array(0) },
      'BAD_SHAPE',
      'textual',
    ],
    ['no images', { teacher: new Float32Array(0) }, 'BAD_SHAPE', 'teacher'],
    ['a momentum in words', { momentum: '0.5' as unknown as number }, 'BAD_OPTION', 'momentum'],
    ['a momentum of 1', { momentum: 1 }, 'BAD_OPTION', 'momentum'],
    ['a momentum that float32 takes for 1', { momentum: 1 - 1e-9 }, 'BAD_OPTION', 'momentum'],
    ['a negative momentum', { momentum: -0.1 }, 'BAD_OPTION', 'momentum'],
    ['a zero teacher', { teacher: zero }, 'ZERO_EMBEDDING', 'teacher'],
    ['a teacher beyond float32', { teacher: rows(3, 6, 2).fill(-3e38, 0, 6) }, 'NON_FINITE', 'teacher'],
  ])('in an update: %s', async (_, change, code, option) => {
    await expect(bankUpdate({ ...updateInput(), ...change }, { device })).rejects.toMatchObject({ code, option });
  });

  test('but the coldest and the hottest temperature can', async () => {
    for (const temperature of [1e-9, 1e9]) {
      const { loss } = await bankLoss(
        { ...lossInput(), studentTemperature: temperature, teacherTemperature: temperature },
        { device },
      );
      expect(loss).toBeGreaterThan(0);
    }
  });

  test('a precision that there is not', async () => {
    await expect(bankLoss(lossInput(), { device, precision: 'float16' as 'float32' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'precision',
      found: 'float16',
    });
  });

  test('arrays of another realm, as under Jest, are taken', async () => {
    const elsewhere = runInNewContext('(values) => Float32Array.from(values)') as (
      values: Float32Array,
    ) => Float32Array;
    const { student, visual } = lossInput();
    expect(elsewhere(student)).not.toBeInstanceOf(Float32Array);
    await expect(
      bankLoss({ ...lossInput(), student: elsewhere(student), visual: elsewhere(visual!) }, { device }),
    ).resolves.toEqual(await bankLoss(lossInput(), { device }));
    const seen = runInNewContext('Uint8Array.of(0, 1, 0, 1)') as Uint8Array;
    await expect(bankUpdate({ ...updateInput(), seen }, { device })).resolves.toBeDefined();
    const queue = new MemoryQueue(4, 2);
    queue.push(elsewhere(Float32Array.of(3, 4)));
    expect(queue.filled).toBe(1);
  });

  test('bfloat16 without a CUDA device', async () => {
    await expect(bankLoss(lossInput(), { device, precision: 'bfloat16' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'precision',
    });
  });

  test('a signal that has fired, before and during the work', async () => {
    const signal = AbortSignal.abort();
    await expect(bankLoss(lossInput(), { device, signal })).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(bankUpdate(updateInput(), { device, signal })).rejects.toMatchObject({ code: 'ABORTED' });
    const later = new AbortController();
    const running = bankLoss(
      { ...lossInput(), student: rows(64, 6, 1), teacher: rows(64, 6, 2) },
      { device, signal: later.signal },
    );
    const updating = bankUpdate({ ...updateInput(), teacher: rows(64, 6, 2) }, { device, signal: later.signal });
    later.abort();
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(updating).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('VisualSemanticsBank', () => {
  test('starts as unit rows in all directions, none seen, the same for the same seed', () => {
    const [size, dimension] = [200, 64];
    const bank = VisualSemanticsBank.random(size, dimension, 7);
    expect([...bank.seen]).toEqual(Array(size).fill(0));
    const mean = new Float64Array(dimension);
    for (let k = 0; k < size; k++) {
      const row = bank.data.subarray(k * dimension, (k + 1) * dimension);
      expect(row.reduce((sum, value) => sum + value * value, 0)).toBeCloseTo(1, 5);
      row.forEach((value, d) => (mean[d]! += value / size));
    }
    for (const seed of [-1, 0.5, NaN, undefined as unknown as number])
      expect(() => VisualSemanticsBank.random(2, 2, seed)).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', option: 'seed' }),
      );
    // The mean of n random unit vectors has a length near 1 / sqrt(n).
    expect(Math.hypot(...mean) * Math.sqrt(size)).toBeGreaterThan(0.7);
    expect(Math.hypot(...mean) * Math.sqrt(size)).toBeLessThan(1.4);
    // Fourth moment of a Gaussian direction: 3 / (D (D + 2)).
    const fourth = bank.data.reduce((sum, value) => sum + value ** 4, 0) / bank.data.length;
    expect(fourth * dimension * (dimension + 2)).toBeCloseTo(3, 0);
    expect([...VisualSemanticsBank.random(size, dimension, 7).data]).toEqual([...bank.data]);
    const other = VisualSemanticsBank.random(size, dimension, 8);
    expect(Math.abs(bank.data.reduce((sum, value, i) => sum + value * other.data[i]!, 0) / size)).toBeLessThan(0.05);
  });

  test('has the numbers of xoshiro128++ and Box and Muller, from all bits of the seed', () => {
    // by another program, whose generator gives the published 641, 1573767, .. of 1, 2, 3, 4
    const expected = [-0.13504890411, 0.81552769912, -0.56274005142, 0.9803153491, 0.10336043889, 0.16822138981];
    expect(relativeError(VisualSemanticsBank.random(2, 3, 7).data, expected)).toBeLessThan(1e-7);
    expect(
      relativeError(
        VisualSemanticsBank.random(1, 3, 7 + 3 * 2 ** 32).data,
        [0.72519584972, -0.65953042839, -0.19776398452],
      ),
    ).toBeLessThan(1e-7);
    // numbers 2000 to 2004: some are made at once
    const far = [0.01491628136, -0.06289323169, -0.80115239205, -0.17057828905, -0.56998231374];
    expect(relativeError(VisualSemanticsBank.random(401, 5, 7).data.subarray(2000), far)).toBeLessThan(1e-7);
  });

  test('is drawn ahead in turns that leave room for others, for one taker', async () => {
    const names = TextualSemanticsBank.fromEmbeddings(
      Array.from({ length: 600 }, (_, i) => `name ${i}`),
      rows(600, 256, 1),
      { encoderId: 'made up' },
    );
    let turns = 0;
    const others = setInterval(() => turns++, 0);
    await drawStartBank(names, 7);
    clearInterval(others);
    expect(turns).toBeGreaterThan(0);
    const random = VisualSemanticsBank.random(600, 256, 7);
    const ahead = takeStartBank(names, 7);
    expect(Buffer.from(ahead.data.buffer).equals(Buffer.from(random.data.buffer))).toBe(true);
    const other = takeStartBank(names, 7);
    expect(other).not.toBe(ahead);
    expect(other.data[0]).toBe(random.data[0]);
    await drawStartBank(names, 7);
    expect(takeStartBank(names, 8).data[0]).not.toBe(random.data[0]);
    await expect(drawStartBank(names, 7, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
  });

  test('refuses arrays that do not fit', () => {
    const bank = new VisualSemanticsBank(rows(4, 3, 1), Uint8Array.of(1, 0, 1, 1), 3);
    expect(bank.size).toBe(4);
    expect(() => new VisualSemanticsBank(rows(4, 3, 1), new Uint8Array(5), 3)).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    expect(() => new VisualSemanticsBank(rows(4, 3, 1), new Uint8Array(3), 3)).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    expect(() => new VisualSemanticsBank(changed(rows(4, 3, 1), 7, NaN), new Uint8Array(4), 3)).toThrow(/anchor 2/u);
    expect(() => VisualSemanticsBank.random(0, 3, 1)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
  });
});

describe('MemoryQueue', () => {
  test('takes over a Float32Array of its size alone', () => {
    for (const data of [[1, 0, 0, 1], new Float32Array(3), new Float64Array(4)])
      expect(() => new MemoryQueue(2, 2, { data: data as Float32Array, position: 0, filled: 2 })).toThrow(
        expect.objectContaining({ code: 'BAD_SHAPE', option: 'queue' }),
      );
  });

  test('keeps the newest rows, normalised, and gives those in use to the loss', () => {
    const queue = new MemoryQueue(3, 2);
    expect(queue.rows).toHaveLength(0);
    const raw = Float32Array.of(3, 4, 0, 2);
    queue.push(raw);
    expect([...raw]).toEqual([3, 4, 0, 2]);
    expect([queue.position, queue.filled]).toEqual([2, 2]);
    expect(relativeError(queue.rows, [0.6, 0.8, 0, 1])).toBeLessThan(1e-6);
    queue.push(Float32Array.of(-5, 0, 0, -1));
    expect([queue.position, queue.filled]).toEqual([1, 3]);
    expect(relativeError(queue.rows, [0, -1, 0, 1, -1, 0])).toBeLessThan(1e-6);
    queue.push(Float32Array.of(1, 0, 2, 0, 0, 1, 0, -1)); // more than it holds
    expect(queue.position).toBe(2);
    expect(relativeError(queue.rows, [0, 1, 0, -1, 1, 0])).toBeLessThan(1e-6);
  });

  test('refuses what it cannot hold, and stays as it was', () => {
    const queue = new MemoryQueue(3, 2);
    queue.push(Float32Array.of(1, 0));
    expect(() => queue.push(Float32Array.of(1, 0, 0, 0))).toThrow(expect.objectContaining({ code: 'ZERO_EMBEDDING' }));
    expect(() => queue.push(Float32Array.of(1, 0, NaN, 0))).toThrow(expect.objectContaining({ code: 'NON_FINITE' }));
    expect(() => queue.push(Float32Array.of(1))).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    expect([queue.position, queue.filled]).toEqual([1, 1]);
    const state = { data: queue.data, position: queue.position, filled: queue.filled };
    expect(new MemoryQueue(3, 2, state).rows).toEqual(queue.rows);
    expect(() => new MemoryQueue(3, 2, { ...state, position: 2 })).toThrow(
      expect.objectContaining({ code: 'BAD_BANK' }),
    );
    expect(() => new MemoryQueue(4, 2, state)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    expect(() => new MemoryQueue(0, 2)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    expect(new MemoryQueue(3, 2, { ...state, position: 2, filled: 3 }).rows).toEqual(queue.data);
    expect(() => new MemoryQueue(3, 2, { ...state, position: 3, filled: 3 })).toThrow(
      expect.objectContaining({ code: 'BAD_BANK' }),
    );
  });
});
