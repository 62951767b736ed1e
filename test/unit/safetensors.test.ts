import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
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
