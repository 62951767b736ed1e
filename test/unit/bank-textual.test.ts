import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import type { TensorRecord } from '../../lib/files/safetensors.js';
import { version } from '../../lib/package.js';
import type { EncodeOptions } from '../../lib/text/encoder.js';
import { CategoryList } from '../../lib/text/names.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { fixedEncoder } from '../fixtures/text-encoder.js';
import { tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const templates = ['a photo of a {}', '{}', 'an old {} in the street at night'];
let encoder: ClipTextEncoder;
let bank: TextualSemanticsBank;
beforeAll(async () => {
  encoder = await ClipTextEncoder.load(tinyClip);
  bank = await TextualSemanticsBank.build(await CategoryList.load('cifar10'), { encoder, templates });
});
afterAll(() => encoder.dispose());

test('names that no file of a bank holds are refused with the limit', () => {
  const half = 'x'.repeat(2 ** 28);
  expect(() =>
    TextualSemanticsBank.fromEmbeddings([half, `y${half}`], Float32Array.of(1, 2), { encoderId: 'none' }),
  ).toThrow(
    expect.objectContaining({
      code: 'BAD_NAMES',
      message: expect.stringContaining('2 names of 513 MiB') as string,
      allowed: '16777216 names of 512 MiB in all',
    }),
  );
});

test('a row is the normalised mean of unit prompt embeddings, as computed one prompt at a time', async () => {
  expect([bank.size, bank.embeddingSize, bank.data.length]).toEqual([10, 256, 2560]);
  expect(bank.templates).toEqual(templates);
  expect(bank.encoderId).toBe('tiny-clip');
  let shortest = 1;
  for (const [k, name] of bank.names.entries()) {
    const mean = new Array<number>(256).fill(0);
    for (const prompt of [`a photo of a ${name}`, name, `an old ${name} in the street at night`]) {
      const raw = await encoder.encode([prompt]);
      const norm = Math.hypot(...raw);
      raw.forEach((value, d) => (mean[d]! += value / norm / 3));
    }
    const norm = Math.hypot(...mean);
    shortest = Math.min(shortest, norm);
    const difference = Math.hypot(...mean.map((value, d) => value / norm - bank.data[k * 256 + d]!));
    expect(difference).toBeLessThan(1e-5);
  }
  expect(shortest).toBeLessThan(0.99); // the prompts differ, so that the second normalisation has something to do
});

test('prompts count alike whatever the length of their embeddings', async () => {
  const fixed = fixedEncoder(2, (text) => (text.startsWith('long') ? [100, 0] : [0, 0.01]));
  const { data } = await TextualSemanticsBank.build(['cat'], { encoder: fixed, templates: ['long {}', 'short {}'] });
  expect([...data]).toEqual([Math.fround(Math.SQRT1_2), Math.fround(Math.SQRT1_2)]);
  expect(fixed.calls).toEqual(['long cat', 'short cat']);
});

test.each<[string, unknown]>([
  ['rows of another size', new Float32Array(12).fill(1)],
  ['too few rows', new Float32Array(4).fill(1)],
  [
    'an array of rows',
    [
      [1, 2],
      [3, 4],
      [5, 6],
    ],
  ],
  ['numbers of another kind', new Float64Array(6).fill(1)],
  ['nothing', undefined],
])('an encoder that gives %s is told what it should have given', async (_, rows) => {
  const encode = async () => rows as Float32Array;
  await expect(
    TextualSemanticsBank.build(['a', 'b', 'c'], {
      encoder: { ...fixedEncoder(2, () => [1, 1]), encode },
      templates: 'none',
    }),
  ).rejects.toMatchObject({
    code: 'BAD_SHAPE',
    option: 'encoder',
    found: rows,
    allowed: 'a Float32Array [3,2]',
    message: expect.stringContaining('the text encoder fixed did not give 3 embeddings') as string,
  });
});

test('an encoder of a caller’s own that never answers is let go when the signal fires', async () => {
  const stop = new AbortController();
  const encode = () => {
    setImmediate(() => stop.abort());
    return new Promise<Float32Array>(() => undefined);
  };
  const encoder = { ...fixedEncoder(2, () => [1, 1]), encode };
  await expect(TextualSemanticsBank.build(['a'], { encoder, signal: stop.signal })).rejects.toMatchObject({
    code: 'ABORTED',
  });
});

test('an encoder of a caller’s own that goes on after the signal fired reports no more', async () => {
  const stop = new AbortController();
  const seen: number[] = [];
  const encode = async (texts: readonly string[], { onProgress }: EncodeOptions = {}) => {
    onProgress?.(1, 2);
    stop.abort();
    onProgress?.(2, 2);
    return Float32Array.from({ length: 2 * texts.length }, () => 1);
  };
  await expect(
    TextualSemanticsBank.build(['a', 'b'], {
      encoder: { ...fixedEncoder(2, () => [1, 1]), encode },
      templates: 'none',
      signal: stop.signal,
      onProgress: (done) => seen.push(done),
    }),
  ).rejects.toMatchObject({ code: 'ABORTED' });
  expect(seen).toEqual([1]);
});

test('what an encoder throws comes as it is, and as BAD_MODEL where it is no error', async () => {
  const build = (thrown: unknown) =>
    TextualSemanticsBank.build(['a'], {
      encoder: {
        ...fixedEncoder(2, () => [1, 1]),
        encode: () => {
          throw thrown;
        },
      },
    });
  const own = new Error('the server is gone');
  await expect(build(own)).rejects.toBe(own);
  await expect(build('gone')).rejects.toMatchObject({ code: 'BAD_MODEL', option: 'encoder', found: 'gone' });
});

test.each([0, -2, 1.5, NaN, '2'])(
  'an encoder whose embeddings have the size %s is refused before it runs',
  async (embeddingSize) => {
    const fixed = fixedEncoder(2, () => [1, 1]);
    await expect(
      TextualSemanticsBank.build(['a'], { encoder: { ...fixed, embeddingSize: embeddingSize as number } }),
    ).rejects.toMatchObject({ code: 'BAD_SHAPE', option: 'encoder.embeddingSize', found: embeddingSize });
    expect(fixed.calls).toEqual([]);
  },
);

test('a long list is encoded in blocks, in order', async () => {
  const names = Array.from({ length: 3000 }, (_, i) => `name ${i}`);
  const fixed = fixedEncoder(2, (text) => [1, Number(text.slice(5))]);
  const seen: number[] = [];
  const { data } = await TextualSemanticsBank.build(names, {
    encoder: fixed,
    templates: 'none',
    onProgress: (done, total) => seen.push(done / total),
  });
  expect(seen.length).toBeGreaterThan(1);
  expect(seen.at(-1)).toBe(1);
  for (const k of [0, 1, 2047, 2048, 2999]) expect(data[2 * k + 1]! / data[2 * k]!).toBeCloseTo(k, 1);
});

test('building again gives the same bank, other names or templates another', async () => {
  const build = (names: string[], templates: string[]) => TextualSemanticsBank.build(names, { encoder, templates });
  expect((await build([...bank.names], templates)).hash).toBe(bank.hash);
  expect((await build([...bank.names], ['{}'])).hash).not.toBe(bank.hash);
  expect((await build([...bank.names].reverse(), templates)).hash).not.toBe(bank.hash);
  expect(bank.hash).toBe(
    createHash('sha256').update(JSON.stringify(bank.names)).update(Buffer.from(bank.data.buffer)).digest('hex'),
  );
});

test('finds rows by name', () => {
  expect(bank.indexOf('cat')).toBe(3);
  expect(bank.indexOf('Cat')).toBe(-1);
});

test('finds the pairs of names that are alike, from 0.9 on unless told', async () => {
  // the second and the third: 0.805
  const rows = Float32Array.of(1, 0, 0.95, Math.sqrt(1 - 0.95 ** 2), 0.95, -Math.sqrt(1 - 0.95 ** 2), -0.95, 0);
  const given = TextualSemanticsBank.fromEmbeddings(['a', 'b', 'c', 'd'], rows, { encoderId: 'mine' });
  const near = [
    { a: 'a', b: 'b', similarity: expect.closeTo(0.95, 5) as number },
    { a: 'a', b: 'c', similarity: expect.closeTo(0.95, 5) as number },
  ];
  expect(await given.nearestNames()).toEqual(near);
  for (const wrong of [{ similarity: 2 }, { similarity: 0 }, { similarity: NaN }, { limit: -1 }, { limit: 0.5 }]) {
    await expect(given.nearestNames(wrong)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: Object.keys(wrong)[0],
    });
  }
  expect(await given.nearestNames({ similarity: 0.8 })).toEqual([
    ...near,
    { a: 'b', b: 'c', similarity: expect.closeTo(0.805, 5) as number },
  ]);
});

test('saves and loads to the bit', async () => {
  const file = join(folder, 'bank.safetensors');
  await bank.save(file);
  const loaded = await TextualSemanticsBank.load(file);
  expect(loaded).toEqual(bank);
  expect(loaded.data).toEqual(bank.data);
  expect(loaded.hash).toBe(bank.hash);
  const { tensors, metadata } = await readSafetensors(file);
  expect(tensors.get('textual_bank')?.shape).toEqual([10, 256]);
  expect(metadata).toMatchObject({
    version,
    encoder: 'tiny-clip',
    names: JSON.stringify(bank.names),
    templates: JSON.stringify(templates),
    hash: bank.hash,
  });
});

test('refuses exact duplicates and names them, unless they are allowed', async () => {
  const names = ['cat', 'dog', 'cat', 'dog', 'bird'];
  const fixed = fixedEncoder(2, () => [1, 1]);
  await expect(TextualSemanticsBank.build(names, { encoder: fixed })).rejects.toMatchObject({
    code: 'BAD_NAMES',
    message: expect.stringContaining('2 names are given more than once: "cat", "dog".') as string,
  });
  expect(fixed.calls).toEqual([]);
  const kept = await TextualSemanticsBank.build(names, { encoder: fixed, allowDuplicates: true });
  expect(kept.names).toEqual(names);
  expect(kept.indexOf('dog')).toBe(1);
});

test('refuses empty names, no names, and embeddings that are zero or not finite', async () => {
  const build = (names: string[], embed: () => number[]) =>
    TextualSemanticsBank.build(names, { encoder: fixedEncoder(2, embed), templates: 'none' });
  await expect(build(['cat', ' '], () => [1, 1])).rejects.toMatchObject({ code: 'BAD_NAMES' });
  await expect(build([], () => [1, 1])).rejects.toMatchObject({ code: 'BAD_NAMES' });
  await expect(build(['cat', 3 as unknown as string], () => [1, 1])).rejects.toMatchObject({
    code: 'BAD_NAMES',
    found: 3,
  });
  await expect(build(['cat'], () => [0, 0])).rejects.toMatchObject({
    code: 'ZERO_EMBEDDING',
    message: expect.stringContaining('"cat"') as string,
  });
  await expect(build(['cat'], () => [NaN, 0])).rejects.toMatchObject({ code: 'NON_FINITE' });
  await expect(TextualSemanticsBank.build(['cat'], { encoder, signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ABORTED',
  });
});

test('a bank of given rows is a normalised copy', async () => {
  const rows = Float32Array.of(3, 4, 0, -2);
  const given = TextualSemanticsBank.fromEmbeddings(['a', 'b'], rows, { encoderId: 'mine' });
  expect([...given.data]).toEqual([Math.fround(0.6), Math.fround(0.8), 0, -1]);
  expect(rows[0]).toBe(3);
  expect(given.encoderId).toBe('mine');
  const of = (names: string[], values: number[]) => () =>
    TextualSemanticsBank.fromEmbeddings(names, Float32Array.from(values), { encoderId: 'mine' });
  expect(of(['a', 'b'], [1, 2, 3])).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }) as Error);
  expect(of(['a', 'b'], [])).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }) as Error);
  expect(of(['a', 'b'], [1, 2, 0, 0])).toThrow(expect.objectContaining({ code: 'ZERO_EMBEDDING' }) as Error);
  expect(of(['a', 'b'], [1, 2, Infinity, 0])).toThrow(expect.objectContaining({ code: 'NON_FINITE' }) as Error);
  expect(of(['a', 'a'], [1, 2, 1, 0])).toThrow(expect.objectContaining({ code: 'BAD_NAMES' }) as Error);
  const file = join(folder, 'given.safetensors');
  await given.save(file);
  expect((await TextualSemanticsBank.load(file)).hash).toBe(given.hash);
});

interface Content {
  tensor: TensorRecord;
  metadata: Record<string, string>;
}
const spoiled: [string, (content: Content) => void, RegExp][] = [
  [
    'another value',
    ({ tensor }) => {
      tensor.data[5] = (tensor.data[5] as number) + 1e-6;
    },
    /does not match its hash/u,
  ],
  [
    'a value that is not finite',
    ({ tensor }) => {
      tensor.data[5] = NaN;
    },
    /row 0 .* has length NaN/u,
  ],
  [
    'a row that is not of unit length',
    ({ tensor }) => {
      for (let d = 256; d < 512; d++) tensor.data[d] = 1.002 * (tensor.data[d] as number);
    },
    /row 1 .* has length 1\.00[12]/u,
  ],
  [
    'another name',
    ({ metadata }) => {
      metadata['names'] = metadata['names']!.replace('cat', 'cow');
    },
    /does not match its hash/u,
  ],
  [
    'fewer names than rows',
    ({ metadata }) => {
      metadata['names'] = '["cat"]';
    },
    /its tensor is \[10,256\] for 1 name/u,
  ],
  [
    'names that are not JSON',
    ({ metadata }) => {
      metadata['names'] = 'cat';
    },
    /names, templates or encoder are missing/u,
  ],
  [
    'no encoder',
    ({ metadata }) => {
      delete metadata['encoder'];
    },
    /names, templates or encoder are missing/u,
  ],
  [
    'no hash',
    ({ metadata }) => {
      delete metadata['hash'];
    },
    /does not match its hash/u,
  ],
  [
    'another shape',
    ({ tensor }) => {
      tensor.shape = [20, 128];
    },
    /its tensor is \[20,128\]/u,
  ],
  [
    'three axes',
    ({ tensor }) => {
      tensor.shape = [10, 256, 1];
    },
    /its tensor is \[10,256,1\]/u,
  ],
  [
    'another format',
    ({ metadata }) => {
      metadata['format'] = 'something';
    },
    /it holds something else/u,
  ],
];

test.each(spoiled)('refuses a file with %s', async (_, spoil, why) => {
  const content = {
    tensor: { shape: [10, 256], data: bank.data.slice() } as TensorRecord,
    metadata: {
      format: 'lgdistill-textual-bank',
      names: JSON.stringify(bank.names),
      templates: '[]',
      encoder: 'tiny-clip',
      hash: bank.hash,
    },
  };
  const file = join(folder, 'spoiled.safetensors');
  const write = () => writeSafetensors(file, [['textual_bank', content.tensor]], content.metadata);
  await write();
  expect((await TextualSemanticsBank.load(file)).hash).toBe(bank.hash);
  spoil(content);
  await write();
  await expect(TextualSemanticsBank.load(file)).rejects.toMatchObject({
    code: 'BAD_BANK',
    message: expect.stringMatching(why) as string,
  });
});

test('refuses a file cut short, a file of something else, no file, and a place it cannot write to', async () => {
  const file = join(folder, 'whole.safetensors');
  await bank.save(file);
  writeFileSync(join(folder, 'cut.safetensors'), readFileSync(file).subarray(0, 5000));
  await expect(TextualSemanticsBank.load(join(folder, 'cut.safetensors'))).rejects.toMatchObject({ code: 'BAD_FILE' });
  await writeSafetensors(join(folder, 'other.safetensors'), [['x', { shape: [1], data: new Float32Array(1) }]], {});
  await expect(TextualSemanticsBank.load(join(folder, 'other.safetensors'))).rejects.toMatchObject({
    code: 'BAD_BANK',
  });
  await expect(TextualSemanticsBank.load(join(folder, 'none.safetensors'))).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
  mkdirSync(join(folder, 'taken'));
  await expect(bank.save(join(folder, 'taken'))).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  await expect(bank.save(join(folder, 'no/such/folder'))).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
});
