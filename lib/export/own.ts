/** A student as this package's own file, which `evaluate`, `distill --weights` and `loadStudent` read. */
import { isProjection } from '../models/students/definition.js';
import type { WeightRecord } from '../models/weights.js';
import { readStudent, writeStudent } from '../runs/student-file.js';
import { drawnImages, engineEmbeddings, exportFailed, type Comparison } from './compare.js';
import type { ExportSource } from './source.js';
import { countWritten, type Written } from './written.js';

/** @throws LgdError NOT_WRITABLE */
export async function writeOwn(file: string, { info, weights }: ExportSource, head: 'keep' | 'drop'): Promise<Written> {
  const record = chosen(weights, head);
  await writeStudent(file, info, record);
  return countWritten(Object.values(record));
}

/**
 * Reads the file back: the same metadata, keys and bits, and the same outputs of a forward pass.
 * @throws LgdError EXPORT_FAILED
 */
export async function compareOwn(
  file: string,
  { info, weights }: ExportSource,
  head: 'keep' | 'drop',
): Promise<Comparison> {
  const expected = chosen(weights, head);
  const found = await readStudent(file).catch((cause: unknown) => {
    throw exportFailed('it cannot be read', cause);
  });
  if (JSON.stringify(found.info) !== JSON.stringify(info)) throw exportFailed('its metadata differ');
  const [wanted, given] = [Object.keys(expected).sort(), Object.keys(found.weights).sort()];
  if (wanted.join('\n') !== given.join('\n'))
    throw exportFailed(`it has ${given.length} tensors instead of ${wanted.length}, or others`);
  for (const name of wanted) {
    const [a, b] = [expected[name]!, found.weights[name]!];
    if (a.shape.join() !== b.shape.join() || !sameBits(a.data, b.data)) throw exportFailed(`${name} differs`);
  }
  const pixels = drawnImages(info.resolution);
  const count = pixels.length / (3 * info.resolution ** 2);
  const [before, after] = [
    await engineEmbeddings(info, weights, { pixels, count }),
    await engineEmbeddings(info, { ...weights, ...found.weights }, { pixels, count }),
  ];
  if (!sameBits(before, after)) throw exportFailed('its outputs differ');
  return { images: count, folder: undefined, cosine: 1 };
}

function chosen(weights: WeightRecord, head: 'keep' | 'drop'): WeightRecord {
  return head === 'keep'
    ? weights
    : Object.fromEntries(Object.entries(weights).filter(([name]) => !isProjection(name)));
}

function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength);
  return bytes(a).equals(bytes(b));
}
