/**
 * What a caller does to arguments while a call is under way: it ends no process, mixes up no results, and where a call
 * cannot go on it says so.
 */
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { openDevice, type Device } from '../../lib/device.js';
import { createStudent, loadTeacher, type AnyTeacher } from '../../lib/models/index.js';
import { bankLoss, bankUpdate, featureLoss } from '../../lib/semantic/index.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { Distiller } from '../../lib/train/distiller.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { resizable } from '../fixtures/random-calls.js';
import { randomNormal } from '../fixtures/random.js';
import { ownTeacher, smallCache, tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let device: Device;
let teacher: Extract<AnyTeacher, { kind: 'native' }>;
let text: ClipTextEncoder;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
  teacher = (await loadTeacher(tinyClip, { device, batch: 1 })) as typeof teacher;
  text = await ClipTextEncoder.load(tinyClip);
});
afterAll(async () => {
  await Promise.all([teacher.dispose(), text.dispose()]);
  device.dispose();
});

const [size, names] = [64, ['cat', 'dog', 'car']];
const rows = (count: number, seed: number) => randomNormal(count * size, seed);
/** The clone keeps the memory until the call has read what it will. */
const transfer = (array: Float32Array) => structuredClone(array, { transfer: [array.buffer as ArrayBuffer] });

describe.each(['js', 'native'] as const)('arrays of the semantic functions: %s', (where) => {
  const numbers = { dimension: size, alpha: 0.4, studentTemperature: 0.2, teacherTemperature: 0.1 };
  const on = () => ({ device: where === 'js' ? ('js' as const) : device });
  const calls = {
    bankLoss: (student: Float32Array) =>
      bankLoss({ student, teacher: rows(200, 2), textual: rows(2000, 3), visual: rows(2000, 4), ...numbers }, on()),
    featureLoss: (student: Float32Array) => featureLoss({ student, teacher: rows(200, 2), dimension: size }, on()),
    bankUpdate: (embeddings: Float32Array) =>
      bankUpdate(
        {
          teacher: embeddings,
          textual: rows(2000, 3),
          visual: rows(2000, 4),
          seen: new Uint8Array(2000),
          dimension: size,
          momentum: 0.9,
        },
        on(),
      ),
  };

  it.each(Object.keys(calls) as (keyof typeof calls)[])('%s reads on where a buffer shrinks', async (name) => {
    const array = resizable(rows(200, 1));
    const found = calls[name](array);
    array.buffer.resize(0);
    expect(await found).toEqual(await calls[name](rows(200, 1)));
  });

  it.each(Object.keys(calls) as (keyof typeof calls)[])('%s says that an array was transferred', async (name) => {
    const array = rows(200, 1);
    const found = calls[name](array);
    const kept = transfer(array);
    if (where === 'js') expect(await found).toEqual(await calls[name](kept));
    else
      await expect(found).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: name === 'bankUpdate' ? 'teacher' : 'student',
        message: expect.stringMatching(/^(student|teacher): it was transferred/u) as string,
      });
    expect(kept).toHaveLength(200 * size);
  });

  it.each(Object.keys(calls) as (keyof typeof calls)[])('%s names an array that was wrong, too', async (name) => {
    const array = rows(200, 1);
    array[70 * size] = NaN;
    const found = calls[name](array);
    transfer(array);
    await expect(found).rejects.toMatchObject({
      code: where === 'js' ? 'NON_FINITE' : 'BAD_OPTION',
      option: name === 'bankUpdate' ? 'teacher' : 'student',
    });
  });
});

it('plain TypeScript reads a Buffer as it was', async () => {
  const update = (seen: Uint8Array) =>
    bankUpdate(
      { teacher: rows(200, 1), textual: rows(2000, 3), visual: rows(2000, 4), seen, dimension: size, momentum: 0.9 },
      { device: 'js' },
    );
  const seen = Buffer.alloc(2000);
  const found = update(seen);
  seen.fill(1);
  expect(await found).toEqual(await update(new Uint8Array(2000)));
});

it.each(['js', 'native'] as const)('arguments may be getters, or inherited: %s', async (where) => {
  class Batch {
    readonly dimension = size;
    get student(): Float32Array {
      return rows(20, 1);
    }
    get teacher(): Float32Array {
      return rows(20, 2);
    }
  }
  const on = { device: where === 'js' ? ('js' as const) : device };
  const plain = { student: rows(20, 1), teacher: rows(20, 2), dimension: size };
  const expected = await featureLoss(plain, on);
  expect(await featureLoss(new Batch(), on)).toEqual(expected);
  expect(await featureLoss(Object.create(plain) as typeof plain, on)).toEqual(expected);
});

it('a teacher says that pixels are gone', async () => {
  const pixels = new Float32Array(3 * 3 * teacher.resolution ** 2);
  const embedded = teacher.embed(pixels, 3);
  transfer(pixels);
  await expect(embedded).rejects.toMatchObject({ code: 'BAD_SHAPE', option: 'pixels' });
});

it('texts and names are those of the call', async () => {
  const expected = await text.encode(names);
  const given = [...names];
  const encoded = text.encode(given);
  given.length = 0;
  expect(await encoded).toEqual(expected);
  const list = [...names];
  const bank = TextualSemanticsBank.build(list, { encoder: text, templates: 'none' });
  list.reverse().push('boat');
  expect((await bank).names).toEqual(names);
});

it.each(['jpeg', 'png'] as const)('an image is decoded whose buffer shrinks: %s', async (format) => {
  const noise = { type: 'gaussian', mean: 100, sigma: 30 } as const; // takes a decoder some milliseconds
  const picture = sharp({ create: { width: 700, height: 500, channels: 3, background: 'teal', noise } });
  const bytes = await picture.toFormat(format).toBuffer();
  const read = async () => {
    const file = resizable(bytes);
    setTimeout(() => file.buffer.resize(0));
    return Promise.resolve(file);
  };
  using cache = await ImageCache.build({ root: 'made up', ids: ['a', 'b'], read }, smallCache(device, folder));
  expect(cache.broken).toEqual([]);
});

it('a text bank without its rows trains nobody', () => {
  const tsb = TextualSemanticsBank.fromEmbeddings(names, rows(3, 1), { encoderId: 'made up' });
  transfer(tsb.data);
  const student = createStudent('mobilenet_v3_small', { device, embeddingSize: size, widthMultiplier: 0.25 });
  expect(
    () =>
      new Distiller({ device, teacher: ownTeacher({ embeddingSize: size }), student, tsb, config: { method: 'lgd' } }),
  ).toThrow(expect.objectContaining({ code: 'BAD_BANK', option: 'bank' }) as Error);
});
