import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { SafetensorsReader } from '../../lib/files/safetensors-reader.js';
import {
  bytesOf,
  encodeSafetensors,
  readSafetensors,
  writeSafetensors,
  type TensorRecord,
} from '../../lib/files/safetensors.js';
import { halfToFloat } from '../../lib/files/safetensors-header.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();

/** Writes a file of this header, as text or as what becomes JSON, and these bytes behind it. */
function writeRaw(name: string, header: unknown, data: Uint8Array = new Uint8Array(0)): string {
  const file = join(folder, `${name}.safetensors`);
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.byteLength));
  writeFileSync(file, Buffer.concat([prefix, json, data]));
  return file;
}

test('tensors of every size, written in pieces, are read back to the bit', async () => {
  // around the megabyte up to which small ones are written together
  const lengths = [1, 300_000, 0, 5, 400_000, 2 ** 18, 2 ** 18 + 1, 10];
  const tensors = lengths.map((length, i): [string, TensorRecord] => [
    `t${i}`,
    { shape: [length], data: Float32Array.from({ length }, (_, k) => k + i) },
  ]);
  const file = join(folder, 'x.safetensors');
  await writeSafetensors(file, tensors, { by: 'test' });
  expect(readFileSync(file).equals(Buffer.concat(encodeSafetensors(tensors, { by: 'test' })))).toBe(true);
  const { tensors: read, metadata } = await readSafetensors(file);
  expect(metadata).toEqual({ by: 'test' });
  for (const [name, { shape, data }] of tensors) {
    expect(read.get(name)!.shape).toEqual(shape);
    expect(
      Buffer.from((read.get(name)!.data as Float32Array).buffer).equals(Buffer.from((data as Float32Array).buffer)),
    ).toBe(true);
  }
});

test('a file that is written twice at once is one of both, whole, and nothing is left beside it', async () => {
  const place = join(folder, 'twice');
  mkdirSync(place);
  const file = join(place, 'x.safetensors');
  const of = (value: number): [string, TensorRecord][] => [
    ['t', { shape: [300_000], data: new Float32Array(300_000).fill(value) }],
  ];
  await Promise.all([1, 2, 3, 4].map((value) => writeSafetensors(file, of(value), {})));
  const data = (await readSafetensors(file)).tensors.get('t')!.data as Float32Array;
  expect([1, 2, 3, 4]).toContain(data[0]);
  expect(data.every((value) => value === data[0])).toBe(true);
  expect(readdirSync(place)).toEqual(['x.safetensors']);
});

describe('what would not be read back is refused before anything is written', () => {
  const one = { shape: [1], data: new Float32Array(1) };
  test.each<[string, unknown, string, string]>([
    [
      'too few values',
      [['t', { shape: [2, 2], data: new Float32Array(3) }]],
      'BAD_SHAPE',
      'the tensor t has 3 values for shape [2,2].',
    ],
    ['no shape', [['t', { data: new Float32Array(3) }]], 'BAD_SHAPE', 'the tensor t has no shape.'],
    [
      'a shape with a fraction',
      [['t', { shape: [1.5, 2], data: new Float32Array(3) }]],
      'BAD_SHAPE',
      'the tensor t has no shape.',
    ],
    [
      'a plain array',
      [['t', { shape: [2], data: [1, 2] }]],
      'BAD_OPTION',
      'the values of the tensor t are of no kind that is written.',
    ],
    [
      'values of another kind',
      [['t', { shape: [2], data: new Uint16Array(2) }]],
      'BAD_OPTION',
      'Found: Uint16Array of 2 values.',
    ],
    [
      'no values',
      [['t', { shape: [2] }]],
      'BAD_OPTION',
      'Allowed: Float32Array, Float64Array, Int32Array, BigInt64Array, Uint8Array.',
    ],
    [
      'two of one name',
      [
        ['t', one],
        ['t', one],
      ],
      'BAD_OPTION',
      'two tensors have one name. Found: "t".',
    ],
    ['the name of the metadata', [['__metadata__', one]], 'BAD_OPTION', 'no tensor can have the name of the metadata.'],
    ['a name alone', [['t']], 'BAD_OPTION', 'this is no tensor.'],
    ['names without pairs', ['t'], 'BAD_OPTION', 'this is no tensor.'],
    ['an object', { t: one }, 'BAD_OPTION', 'these are no tensors.'],
    ['nothing', undefined, 'BAD_OPTION', 'these are no tensors.'],
  ])('%s', async (name, tensors, code, message) => {
    const file = join(folder, `refused ${name}`);
    await expect(writeSafetensors(file, tensors as [string, TensorRecord][], {})).rejects.toMatchObject({
      code,
      option: 'tensors',
      message: expect.stringContaining(message) as string,
    });
    expect(existsSync(file)).toBe(false);
  });

  test('any other name is kept', async () => {
    const names = ['__proto__', 'constructor', '', '1', 'x'];
    const file = join(folder, 'names.safetensors');
    await writeSafetensors(
      file,
      names.map((name, i) => [name, { shape: [2], data: Float32Array.of(i, 7) }]),
      {},
    );
    const { tensors } = await readSafetensors(file);
    expect(Object.fromEntries([...tensors].map(([name, { data }]) => [`of ${name}`, data[0]]))).toEqual(
      Object.fromEntries(names.map((name, i) => [`of ${name}`, i])),
    );
  });
});

const whole = Buffer.concat(encodeSafetensors([['t', { shape: [4], data: new Float32Array(4) }]], {}));

test.each<[string, Uint8Array, string]>([
  ['a text', Buffer.from('cat\ndog\nbird\n'), 'is not a safetensors file.'],
  ['an ONNX file', Uint8Array.from([8, 8, 18, 7, 112, 121, 116, 111, 114, 99, 104]), 'is not a safetensors file.'],
  ['a text of eight letters', Buffer.from('cat\ndog\n'), 'is not a safetensors file.'],
  [
    'a pointer of Git LFS',
    Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:a630\nsize 605157884\n'),
    'is not a safetensors file. It is a pointer of Git LFS',
  ],
  ['zeros', new Uint8Array(64), 'is not a safetensors file.'],
  ['one that was cut in its header', whole.subarray(0, 40), 'is not a whole safetensors file: its header should have'],
  ['one that was cut in its data', whole.subarray(0, -4), 'is not a whole safetensors file: tensor t'],
  [
    'one that was cut behind its first number',
    whole.subarray(0, 8),
    'is not a whole safetensors file: its header should have',
  ],
  ['a few bytes', whole.subarray(0, 5), 'is not a whole safetensors file: it has 5 bytes'],
])('%s is called what it is', async (name, bytes, said) => {
  const file = join(folder, `${name}.safetensors`);
  writeFileSync(file, bytes);
  const refusal = { code: 'BAD_FILE', message: expect.stringContaining(`${file} ${said}`) as string };
  await expect(readSafetensors(file)).rejects.toMatchObject(refusal);
  await expect(SafetensorsReader.open([file])).rejects.toMatchObject(refusal);
});

test('a tensor of every dtype that is read in several pieces has each value in its place', async () => {
  const sizes = { U8: 1, BOOL: 1, F16: 2, BF16: 2, F32: 4, I32: 4, F64: 8, I64: 8 };
  // two pieces and a half; no NaN among them
  const bytes = Buffer.from(
    Uint32Array.from({ length: 5 * 2 ** 18 }, (_, i) => Math.imul(i + 1, 2654435761) & 0x3fff3fff).buffer,
  );
  for (const [dtype, size] of Object.entries(sizes)) {
    const count = bytes.byteLength / size;
    const file = writeRaw(
      dtype,
      {
        before: { dtype: 'U8', shape: [3], data_offsets: [0, 3] },
        x: { dtype, shape: [count], data_offsets: [3, 3 + bytes.byteLength] },
      },
      Buffer.concat([Buffer.from('abc'), bytes]),
    );
    const { shape, data } = (await readSafetensors(file)).tensors.get('x')!;
    expect(shape).toEqual([count]);
    const found = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (size !== 2) {
      expect(found.equals(bytes), dtype).toBe(true);
      continue;
    }
    const bits = new Uint16Array(bytes.buffer);
    const widened =
      dtype === 'F16'
        ? Float32Array.from(bits, halfToFloat)
        : new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer);
    expect(found.equals(Buffer.from(widened.buffer)), dtype).toBe(true);
  }
});

test('a file of more than 2 GiB is read', async () => {
  const end = 2 ** 32 + 8; // behind a hole, which takes no room
  const file = writeRaw(
    'large',
    {
      first: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
      hole: { dtype: 'U8', shape: [end - 8], data_offsets: [8, end] },
      last: { dtype: 'BF16', shape: [4], data_offsets: [end, end + 8] },
    },
    Buffer.from(Float32Array.of(1, 2).buffer),
  );
  truncateSync(file, readFileSync(file).byteLength - 8 + end);
  writeFileSync(file, Buffer.from(Float32Array.of(5, -7).buffer), { flag: 'a' });
  await using reader = await SafetensorsReader.open([file]);
  expect(await reader.read('first')).toEqual(Float32Array.of(1, 2));
  expect([...new Uint32Array((await reader.read('last')).buffer)]).toEqual(
    [...new Uint16Array(Float32Array.of(5, -7).buffer)].map((half) => half * 2 ** 16),
  );
});

test('a tensor of more than 4 GiB is written from its own memory, in pieces that hashes and views take', () => {
  const count = 2 ** 30 + 3; // never touched, so no memory stands behind it
  const [, header, ...pieces] = encodeSafetensors([['x', { shape: [count], data: new Float32Array(count) }]], {});
  expect((JSON.parse(header!.toString()) as { x: object }).x).toEqual({
    dtype: 'F32',
    shape: [count],
    data_offsets: [0, 4 * count],
  });
  expect(Math.max(...pieces.map(({ byteLength }) => byteLength))).toBeLessThan(2 ** 31);
  expect(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBe(4 * count);
  const some = Float32Array.from({ length: 9 }, (_, i) => i).subarray(2);
  const cut = [...bytesOf(some, 12)];
  expect(cut.map(({ byteLength }) => byteLength)).toEqual([12, 12, 4]);
  expect(Buffer.concat(cut).equals(Buffer.from(Float32Array.of(2, 3, 4, 5, 6, 7, 8).buffer))).toBe(true);
});

test('a header that no string holds is refused with the limit, written or read', async () => {
  const file = join(folder, 'long-header.safetensors');
  const write = () => writeSafetensors(file, [['t', { shape: [1], data: new Float32Array(1) }]], { ids: 'made up' });
  await write();
  // As V8 refuses strings of 512 MiB, which are not made here.
  vi.spyOn(JSON, 'stringify').mockImplementationOnce(() => {
    throw new RangeError('Invalid string length');
  });
  await expect(write()).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining('more than 512 MiB of text') as string,
    mend: expect.stringContaining('Give fewer of them') as string,
  });
  vi.spyOn(TextDecoder.prototype, 'decode').mockImplementationOnce(() => {
    throw Object.assign(new Error('Cannot create a string longer than 0x1fffffe8 characters'), {
      code: 'ERR_STRING_TOO_LONG',
    });
  });
  await expect(readSafetensors(file)).rejects.toMatchObject({
    code: 'BAD_FILE',
    message: expect.stringMatching(/the header of .* has 1 MiB of text, more than the 512 that can be read/u) as string,
  });
  expect((await readSafetensors(file)).metadata).toEqual({ ids: 'made up' });
});

test('a file that the system stops giving out is named', async () => {
  const file = writeRaw('lost', { x: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } }, new Uint8Array(4));
  const handle = await open(file);
  const handles = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  for (const call of ['stat', 'read'] as const) {
    const cause = Object.assign(new Error('stale file handle'), { code: 'ESTALE' });
    vi.spyOn(handles, call).mockRejectedValueOnce(cause);
    await expect(readSafetensors(file), call).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`cannot read ${file}`) as string,
      cause,
    });
  }
});

test('what is damaged is said', async () => {
  const entry = (dtype: string, shape: number[], data_offsets: [number, number]) => ({
    x: { dtype, shape, data_offsets },
  });
  const two = (first: [number, number], second: [number, number]) =>
    `{"x":${JSON.stringify({ dtype: 'U8', shape: [first[1] - first[0]], data_offsets: first })},"y":${JSON.stringify({ dtype: 'U8', shape: [second[1] - second[0]], data_offsets: second })}}`;
  const cases: [string, unknown, number, string][] = [
    ['cut', entry('F32', [2], [0, 8]), 7, 'tensor x ends past the end of the file'],
    ['dtype', entry('F8_E5M2', [8], [0, 8]), 8, 'tensor x has dtype F8_E5M2, which is not supported'],
    ['shape', entry('F32', [3], [0, 8]), 8, 'tensor x has 8 bytes for F32 [3]'],
    ['half', entry('F16', [2], [0, 8]), 8, 'tensor x has 8 bytes for F16 [2]'],
    ['backwards', entry('F32', [1], [8, 4]), 8, 'tensor x lies from byte 8 to 4'],
    ['before', entry('F32', [2], [-4, 4]), 8, 'tensor x lies from byte -4 to 4'],
    ['odd', entry('F16', [2], [0, 5]), 5, 'tensor x has 5 bytes for F16 [2]'],
    ['overlap', two([0, 5], [4, 8]), 8, 'tensor y begins within another one'],
    ['hole', two([0, 2], [4, 8]), 8, 'its bytes from 2 to 4 are of no tensor, as where two have one name'],
    [
      'one name',
      two([0, 4], [4, 8]).replace('"y"', '"x"'),
      8,
      'its bytes from 0 to 4 are of no tensor, as where two have one name',
    ],
    [
      'one name, the last first',
      two([4, 8], [0, 4]).replace('"y"', '"x"'),
      8,
      'its last 4 bytes are of no tensor, as where two have one name',
    ],
    ['surplus', entry('F32', [2], [0, 8]), 12, 'its last 4 bytes are of no tensor, as where two have one name'],
    ['no places', { x: { dtype: 'F32', shape: [2] } }, 8, 'tensor x lies from byte none'],
    [
      'half a place',
      { x: { dtype: 'F32', shape: [2], data_offsets: [0.5, 8.5] } },
      9,
      'tensor x lies from byte 0.5 to 8.5',
    ],
    ['no shape', { x: { dtype: 'F32', data_offsets: [0, 8] } }, 8, 'tensor x has no dtype and shape'],
    [
      'shape of texts',
      { x: { dtype: 'F32', shape: ['2'], data_offsets: [0, 8] } },
      8,
      'tensor x has no dtype and shape',
    ],
    ['nothing', { x: null }, 8, 'tensor x has no dtype and shape'],
    [
      'dtype of all objects',
      entry('constructor', [8], [0, 8]),
      8,
      'tensor x has dtype constructor, which is not supported',
    ],
    ['metadata', { __metadata__: { format: 1 } }, 0, 'its metadata are not texts'],
    ['a list of metadata', { __metadata__: ['format'] }, 0, 'its metadata are not texts'],
    ['two documents', '{} {}', 0, 'its header is not JSON'],
  ];
  for (const [name, header, bytes, why] of cases) {
    await expect(readSafetensors(writeRaw(name, header, new Uint8Array(bytes))), name).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`is not a whole safetensors file: ${why}.`) as string,
    });
  }
  const file = writeRaw('header', entry('F32', [2], [0, 8]), new Uint8Array(8));
  for (const [size, why] of [
    [40, 'its header should have 54 bytes, the file ends before'],
    [5, 'it has 5 bytes'],
    [0, 'it has 0 bytes'],
  ] as const) {
    truncateSync(file, size);
    await expect(readSafetensors(file), why).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`${why}.`) as string,
    });
  }
  await expect(readSafetensors(folder)).rejects.toMatchObject({ code: 'BAD_FILE' });
  await expect(readSafetensors(join(folder, 'none.safetensors'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});
