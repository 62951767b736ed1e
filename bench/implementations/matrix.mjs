// bankLoss and bankUpdate in JavaScript over the matrix product of a library from npm. Rows, softmaxes and sums are the
// plain loops below for every library; they are a hundredth of the work.
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/**
 * Each library: bank(values, K, D) brings a bank into the form it multiplies fastest, scores(rows, B, bank) is rows .
 * bank^T as [B,K], sums(weights, B, bank) is weights . bank as [B,D].
 */
const libraries = {
  'ml-matrix': async () => {
    const { Matrix } = await import('ml-matrix');
    const matrix = (values, rows, columns) => Matrix.from1DArray(rows, columns, values);
    return {
      detail: 'plain JavaScript, float64, one thread',
      bank: (values, K, D) => ({ K, D, rows: matrix(values, K, D), columns: matrix(values, K, D).transpose() }),
      scores: (values, B, { D, columns }) => matrix(values, B, D).mmul(columns).to1DArray(),
      sums: (values, B, { K, rows }) => matrix(values, B, K).mmul(rows).to1DArray(),
    };
  },
  stdlib: async () => {
    const sgemm = require('@stdlib/blas-base-sgemm');
    const product = (b, M, N, K, a) => {
      const c = new Float32Array(M * N);
      sgemm('row-major', 'no-transpose', 'no-transpose', M, N, K, 1, a, K, b, N, 0, c, N);
      return c;
    };
    return {
      detail: 'plain JavaScript, float32, one thread',
      bank: (values, K, D) => ({ K, D, rows: values, columns: transposed(values, K, D) }),
      scores: (values, B, { K, D, columns }) => product(columns, B, K, D, values),
      sums: (values, B, { K, D, rows }) => product(rows, B, D, K, values),
    };
  },
  'ndarray-gemm': async () => {
    const [ndarray, gemm] = [require('ndarray'), require('ndarray-gemm')];
    const product = (a, b, M, N) => {
      const c = new Float32Array(M * N);
      gemm(ndarray(c, [M, N]), a, b);
      return c;
    };
    return {
      detail: 'plain JavaScript, float32, one thread',
      bank: (values, K, D) => ({ K, D, rows: ndarray(values, [K, D]) }),
      scores: (values, B, { K, D, rows }) => product(ndarray(values, [B, D]), rows.transpose(1, 0), B, K),
      sums: (values, B, { K, D, rows }) => product(ndarray(values, [B, K]), rows, B, D),
    };
  },
  'numpy-ts': async () => {
    const np = await import('numpy-ts');
    const matrix = (values, rows, columns) => {
      const flat = np.array(values);
      const shaped = flat.reshape(rows, columns);
      flat.dispose();
      return shaped;
    };
    const product = (a, b) => {
      const c = np.matmul(a, b);
      const values = c.data.slice();
      for (const array of [a, c]) array.dispose();
      return values;
    };
    return {
      detail: 'WebAssembly SIMD, float32, one thread',
      bank: (values, K, D) => ({ K, D, rows: matrix(values, K, D), columns: matrix(transposed(values, K, D), D, K) }),
      scores: (values, B, { D, columns }) => product(matrix(values, B, D), columns),
      sums: (values, B, { K, rows }) => product(matrix(values, B, K), rows),
    };
  },
};

const packages = { stdlib: '@stdlib/blas-base-sgemm' };

export async function open({ library: name }) {
  const library = await libraries[name]();
  const { dependencies } = require('../package.json');
  const packageName = packages[name] ?? name;
  return {
    detail: library.detail,
    threads: 1,
    versions: { [packageName]: dependencies[packageName] },
    bankLoss(input) {
      const banks = {
        textual: library.bank(input.textual, input.seen.length, input.dimension),
        visual: library.bank(input.visual, input.seen.length, input.dimension),
      };
      let result;
      return { run: () => (result = bankLoss(library, input, banks)), result: () => result, dispose() {} };
    },
    bankUpdate(input) {
      const textual = library.bank(input.textual, input.seen.length, input.dimension);
      let result;
      return { run: () => (result = bankUpdate(library, input, textual)), result: () => result, dispose() {} };
    },
    close() {},
  };
}

function bankLoss(library, { student, teacher, dimension: D, studentTemperature, teacherTemperature, alpha }, banks) {
  const B = student.length / D;
  const [z, u] = [unitRows(student, D), unitRows(teacher, D)];
  const own = Float64Array.from({ length: B }, (_, i) => dotRows(z.rows, u.rows, i, D));
  const temperatures = { studentTemperature, teacherTemperature };
  const parts = [
    ['textual', 1 - alpha],
    ['visual', alpha],
  ].map(([name, weight]) => {
    const bank = banks[name];
    const part = softmaxPart(
      library.scores(z.rows, B, bank),
      library.scores(u.rows, B, bank),
      B,
      bank.K,
      name === 'visual' ? own : undefined,
      { ...temperatures, weight: weight / B },
    );
    return { ...part, sums: library.sums(part.weights, B, bank) };
  });
  const [textual, visual] = parts;
  const gradient = new Float32Array(B * D);
  for (let i = 0; i < B; i++) {
    let along = 0;
    for (let at = i * D; at < (i + 1) * D; at++) {
      gradient[at] = textual.sums[at] + visual.sums[at] + visual.ownWeights[i] * u.rows[at];
      along += gradient[at] * z.rows[at];
    }
    for (let at = i * D; at < (i + 1) * D; at++) gradient[at] = (gradient[at] - along * z.rows[at]) / z.norms[i];
  }
  return {
    losses: Float64Array.of(alpha * visual.loss + (1 - alpha) * textual.loss, visual.loss, textual.loss),
    gradient,
  };
}

/** Softmaxes and cross-entropy of one part over [own entry | bank], and weight * (q - p) / t_S of every entry. */
function softmaxPart(studentScores, teacherScores, B, K, own, { studentTemperature, teacherTemperature, weight }) {
  const [weights, ownWeights] = [new Float32Array(B * K), new Float64Array(B)];
  const [q, p] = [new Float64Array(K), new Float64Array(K)];
  let loss = 0;
  for (let i = 0; i < B; i++) {
    let [sPeak, tPeak] = own ? [own[i], 1] : [-Infinity, -Infinity];
    for (let k = 0, at = i * K; k < K; k++, at++) {
      if (studentScores[at] > sPeak) sPeak = studentScores[at];
      if (teacherScores[at] > tPeak) tPeak = teacherScores[at];
    }
    const ownLogit = own ? (own[i] - sPeak) / studentTemperature : 0;
    const [ownQ, ownP] = own ? [Math.exp(ownLogit), Math.exp((1 - tPeak) / teacherTemperature)] : [0, 0];
    let [sSum, tSum, cross] = [ownQ, ownP, ownP * ownLogit];
    for (let k = 0, at = i * K; k < K; k++, at++) {
      const logit = (studentScores[at] - sPeak) / studentTemperature;
      q[k] = Math.exp(logit);
      p[k] = Math.exp((teacherScores[at] - tPeak) / teacherTemperature);
      sSum += q[k];
      tSum += p[k];
      cross += p[k] * logit;
    }
    loss += Math.log(sSum) - cross / tSum;
    const factor = weight / studentTemperature;
    for (let k = 0, at = i * K; k < K; k++, at++) weights[at] = factor * (q[k] / sSum - p[k] / tSum);
    ownWeights[i] = factor * (ownQ / sSum - ownP / tSum);
  }
  return { loss: loss / B, weights, ownWeights };
}

function bankUpdate(library, { teacher, visual, seen, dimension: D, momentum }, textual) {
  const B = teacher.length / D;
  const { rows } = unitRows(teacher, D);
  const assignment = nearestRows(library.scores(rows, B, textual), B, textual.K);
  return { assignment, visual: aggregate(rows, assignment, visual, seen, D, momentum) };
}

/** [B] index of the largest score, the lowest among equals. */
function nearestRows(scores, B, K) {
  const nearest = new Int32Array(B);
  for (let i = 0; i < B; i++) {
    let best = i * K;
    for (let at = i * K; at < (i + 1) * K; at++) if (scores[at] > scores[best]) best = at;
    nearest[i] = best - i * K;
  }
  return nearest;
}

/** The visual bank moved towards the mean of the rows assigned to each category. */
function aggregate(rows, assignment, visual, seen, D, momentum) {
  const members = new Map();
  assignment.forEach((k, i) => members.set(k, [...(members.get(k) ?? []), i]));
  const moved = Float32Array.from(visual);
  for (const [k, images] of members) {
    const keep = seen[k] ? momentum : 0;
    for (let d = 0; d < D; d++) {
      let sum = 0;
      for (const i of images) sum += rows[i * D + d];
      moved[k * D + d] = keep * moved[k * D + d] + ((1 - keep) * sum) / images.length;
    }
  }
  return moved;
}

function unitRows(values, D) {
  const rows = new Float32Array(values.length);
  const norms = new Float64Array(values.length / D);
  for (let i = 0; i < norms.length; i++) {
    norms[i] = Math.sqrt(dotRows(values, values, i, D));
    for (let at = i * D; at < (i + 1) * D; at++) rows[at] = values[at] / norms[i];
  }
  return { rows, norms };
}

function dotRows(a, b, row, D) {
  let sum = 0;
  for (let at = row * D; at < (row + 1) * D; at++) sum += a[at] * b[at];
  return sum;
}

function transposed(values, rows, columns) {
  const out = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = values[i * columns + j];
  return out;
}
