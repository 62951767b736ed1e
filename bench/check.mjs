// Whether an implementation computed what the float64 reference did; a row that is fast and wrong says so.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Largest relative error (norm of the difference over norm) that a row may have: ours promises 2e-5, others sum
 * everything in float32.
 */
export const bounds = { ours: 2e-5, others: 2e-4, encoder: 1e-3 };

/** Norm of the difference over norm of the reference. */
export function relativeError(values, reference) {
  if (values.length !== reference.length) return Infinity;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < reference.length; i++) {
    difference += (values[i] - reference[i]) ** 2;
    norm += reference[i] ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** Results as kept between the processes: arrays by name, numbers as arrays of one. */
const keptArrays = {
  bankLoss: { losses: Float64Array, gradient: Float32Array },
  bankUpdate: { assignment: Int32Array, visual: Float32Array },
};
const pathOf = (folder, op, { B, D, K }, name) => join(folder, `${op}-${B}x${D}x${K}.${name}`);

export function keepReference(folder, op, size, result) {
  for (const name of Object.keys(keptArrays[op]))
    writeFileSync(
      pathOf(folder, op, size, name),
      new Uint8Array(result[name].buffer, result[name].byteOffset, result[name].byteLength),
    );
}

/**
 * Compares a result with the reference kept for it.
 * @param result bankLoss: { losses: [loss, lossVisual, lossTextual], gradient }; bankUpdate: { assignment, visual }
 */
export function checkResult(folder, op, size, result, bound) {
  const errors = {};
  for (const [name, Type] of Object.entries(keptArrays[op])) {
    if (result[name] === undefined) continue; // kept on the device, where no caller reads it
    const bytes = readFileSync(pathOf(folder, op, size, name));
    const reference = new Type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    // Categories are compared one by one: how many images went elsewhere.
    errors[name] =
      name === 'assignment'
        ? result[name].reduce((wrong, value, i) => wrong + Number(value !== reference[i]), 0) / reference.length
        : relativeError(result[name], reference);
  }
  const error = Math.max(...Object.values(errors));
  return {
    against: 'js',
    error: Number(error.toPrecision(3)),
    bound,
    ok: error <= bound,
    parts: Object.fromEntries(Object.entries(errors).map(([name, value]) => [name, Number(value.toPrecision(3))])),
  };
}
