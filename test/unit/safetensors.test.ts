import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SafetensorsReader } from '../../lib/safetensors-reader.js';
import { encodeSafetensors, readSafetensors, writeSafetensors, type TensorRecord } from '../../lib/safetensors.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();

test('tensors of every size, written in pieces, are read back to the bit', async () => {
  const lengths = [1, 300_000, 0, 5, 400_000, 2 ** 18, 2 ** 18 + 1, 10]; // around the megabyte up to which small ones are written together
  const tensors = lengths.map((length, i): [string, TensorRecord] => [`t${i}`, { shape: [length], data: Float32Array.from({ length }, (_, k) => k + i) }]);
  const file = join(folder, 'x.safetensors');
  await writeSafetensors(file, tensors, { by: 'test' });
  expect(readFileSync(file).equals(Buffer.concat(encodeSafetensors(tensors, { by: 'test' })))).toBe(true);
  const { tensors: read, metadata } = await readSafetensors(file);
  expect(metadata).toEqual({ by: 'test' });
  for (const [name, { shape, data }] of tensors) {
    expect(read.get(name)!.shape).toEqual(shape);
    expect(Buffer.from((read.get(name)!.data as Float32Array).buffer).equals(Buffer.from((data as Float32Array).buffer))).toBe(true);
  }
});

const whole = Buffer.concat(encodeSafetensors([['t', { shape: [4], data: new Float32Array(4) }]], {}));

test.each<[string, Uint8Array, string]>([
  ['a text', Buffer.from('cat\ndog\nbird\n'), 'is not a safetensors file.'],
  ['an ONNX file', Uint8Array.from([8, 8, 18, 7, 112, 121, 116, 111, 114, 99, 104]), 'is not a safetensors file.'],
  ['a text of eight letters', Buffer.from('cat\ndog\n'), 'is not a safetensors file.'],
  ['zeros', new Uint8Array(64), 'is not a safetensors file.'],
  ['one that was cut in its header', whole.subarray(0, 40), 'is not a whole safetensors file: its header should have'],
  ['one that was cut in its data', whole.subarray(0, -4), 'is not a whole safetensors file: tensor t'],
  ['one that was cut behind its first number', whole.subarray(0, 8), 'is not a whole safetensors file: its header should have'],
  ['a few bytes', whole.subarray(0, 5), 'is not a whole safetensors file: it has 5 bytes'],
])('%s is called what it is', async (name, bytes, said) => {
  const file = join(folder, `${name}.safetensors`);
  writeFileSync(file, bytes);
  const refusal = { code: 'BAD_FILE', message: expect.stringContaining(`${file} ${said}`) as string };
  await expect(readSafetensors(file)).rejects.toMatchObject(refusal);
  await expect(SafetensorsReader.open([file])).rejects.toMatchObject(refusal);
});
