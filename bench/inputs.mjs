// The arguments of bankLoss and bankUpdate that every implementation is given: seeded, so each process makes the same.

/**
 * Embeddings that lie about their category as real ones do: a textual bank of random unit rows, a visual anchor near
 * each of them, teachers near an anchor, students somewhat further away. Temperatures, weight and momentum are the
 * published ones.
 * @param {{ B: number, D: number, K: number }} size images, embedding size, categories
 */
export function makeInput({ B, D, K }) {
  const draw = randomNumbers(B * 31 + D * 7 + K);
  const textual = rowsNear(draw, K, D, () => undefined, 1);
  const visual = rowsNear(draw, K, D, (row) => textual.subarray(row * D, (row + 1) * D), 0.7);
  const category = Array.from({ length: B }, () => Math.floor(draw() * K));
  const near = (bank) => (row) => bank.subarray(category[row] * D, (category[row] + 1) * D);
  const teacher = rowsNear(draw, B, D, near(visual), 0.7, 3);
  const student = rowsNear(draw, B, D, near(visual), 1.5, 5);
  return {
    student,
    teacher,
    textual,
    visual,
    seen: new Uint8Array(K).fill(1),
    dimension: D,
    studentTemperature: 0.2,
    teacherTemperature: 0.01,
    alpha: 0.5,
    momentum: 0.999,
  };
}

/** [count, D] rows of length `norm`: centre + noise of length `spread`. */
function rowsNear(draw, count, D, centreOf, spread, norm = 1) {
  const rows = new Float32Array(count * D);
  const scale = spread * Math.sqrt(3 / D); // uniform numbers in [-1, 1] have a mean square of 1/3
  for (let row = 0; row < count; row++) {
    const centre = centreOf(row);
    let square = 0;
    for (let d = 0; d < D; d++) {
      const value = (centre ? centre[d] : 0) + scale * (2 * draw() - 1);
      rows[row * D + d] = value;
      square += value * value;
    }
    const factor = norm / Math.sqrt(square);
    for (let d = 0; d < D; d++) rows[row * D + d] *= factor;
  }
  return rows;
}

/** Numbers in [0, 1) (mulberry32). */
export function randomNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
