import { LgdError } from '../errors.js';
import type { Student } from '../models/student.js';
import type { WeightRecord } from '../models/weights.js';
import { readSafetensors } from '../safetensors.js';

/** torchvision's classifiers, which the projection head stands in the place of. */
const classifier = /^(?:classifier|fc)\./u;
const counter = /\.num_batches_tracked$/u;

/**
 * Starts a student from a file of weights under torchvision's names: a student of this package, or a backbone from elsewhere. Its projection head may be missing
 * (it then keeps its seeded start), a classifier is left out.
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL naming what does not fit
 */
export async function loadStartWeights(student: Student, file: string): Promise<void> {
  const { tensors } = await readSafetensors(file);
  const record: WeightRecord = Object.fromEntries(Object.entries(student.weights).filter(([name]) => name.startsWith('head.')));
  for (const [name, { shape, data }] of tensors) {
    if (classifier.test(name) || counter.test(name)) continue;
    if (!(data instanceof Float32Array)) throw new LgdError('BAD_MODEL', `${name} in ${file} is not of floats.`, { option: 'student.weights', mend: 'Give a file of floating-point weights' });
    record[name] = { shape, data };
  }
  try {
    student.load(record);
  } catch (cause) {
    throw new LgdError('BAD_MODEL', `${file} does not fit ${student.name}: ${(cause as Error).message}`, {
      option: 'student.weights', mend: 'Check student.name and student.widthMultiplier', cause,
    });
  }
}
