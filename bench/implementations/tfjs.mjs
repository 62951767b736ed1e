// bankLoss and bankUpdate on a backend of tfjs. Written for its speed: the gradient by hand, from the same softmaxes,
// and both orientations of each bank kept as tensors, since its WASM backend multiplies by a transposed operand ten
// times slower.
import { createRequire } from 'node:module';
import { trainTfjs } from '../encoder-tfjs.mjs';
import { openBackend } from './tfjs-backends.mjs';

const require = createRequire(import.meta.url);

export async function open({ backend, threads: wanted }) {
  const { tf, detail, threads } = await openBackend(backend, wanted);
  const { dependencies } = require('../package.json');
  const packages = [
    '@tensorflow/tfjs',
    ...(backend === 'cpu' ? [] : [`@tensorflow/tfjs-backend-${backend}`]),
    ...(backend === 'webgpu' ? ['webgpu'] : []),
  ];
  return {
    detail,
    threads,
    versions: Object.fromEntries(packages.map((name) => [name, dependencies[name]])),
    bankLoss: (input) => prepareLoss(tf, input),
    bankUpdate: (input) => prepareUpdate(tf, input),
    trainEncoder: (spec) => trainTfjs(tf, spec),
    close() {},
  };
}

function bankTensors(tf, values, dimension) {
  const rows = tf.tensor2d(values, [values.length / dimension, dimension]);
  return { rows, columns: tf.transpose(rows) };
}

function prepareLoss(tf, input) {
  const { dimension: D, alpha } = input;
  const banks = { textual: bankTensors(tf, input.textual, D), visual: bankTensors(tf, input.visual, D) };
  let result;
  return {
    async run() {
      const outputs = tf.tidy(() => {
        const [z, norm] = unitRows(tf, input.student, D);
        const [u] = unitRows(tf, input.teacher, D);
        const own = tf.sum(tf.mul(z, u), 1, true);
        const textual = part(
          tf,
          tf.matMul(z, banks.textual.columns),
          tf.matMul(u, banks.textual.columns),
          undefined,
          input,
        );
        const visual = part(tf, tf.matMul(z, banks.visual.columns), tf.matMul(u, banks.visual.columns), own, input);
        const slope = tf.addN([
          tf.mul(tf.matMul(textual.weights, banks.textual.rows), 1 - alpha),
          tf.mul(tf.add(tf.matMul(visual.weights, banks.visual.rows), tf.mul(visual.ownWeights, u)), alpha),
        ]);
        const across = tf.sub(slope, tf.mul(tf.sum(tf.mul(slope, z), 1, true), z));
        return [tf.div(across, tf.mul(norm, z.shape[0])), visual.loss, textual.loss];
      });
      const [gradient, [lossVisual], [lossTextual]] = await Promise.all(outputs.map((tensor) => tensor.data()));
      tf.dispose(outputs);
      result = {
        losses: Float64Array.of(alpha * lossVisual + (1 - alpha) * lossTextual, lossVisual, lossTextual),
        gradient,
      };
    },
    result: () => result,
    dispose: () => tf.dispose(banks),
  };
}

/** Unit rows [B,D] and norms [B,1]. */
function unitRows(tf, values, D) {
  const x = tf.tensor2d(values, [values.length / D, D]);
  const norm = tf.sqrt(tf.sum(tf.square(x), 1, true));
  return [tf.div(x, norm), norm];
}

/**
 * Mean cross-entropy of one part over [own entry | bank] and (q - p) / t_S of the bank's entries [B,K] and of the own
 * entry [B,1].
 */
function part(tf, studentScores, teacherScores, own, { studentTemperature, teacherTemperature }) {
  const student = softmax(tf, studentScores, own, studentTemperature);
  const teacher = softmax(tf, teacherScores, own && tf.onesLike(own), teacherTemperature);
  let cross = tf.sum(tf.mul(teacher.exponentials, student.logits), 1, true);
  if (own) cross = tf.add(cross, tf.mul(teacher.ownExponential, student.ownLogit));
  const loss = tf.mean(tf.sub(tf.log(student.sum), tf.div(cross, teacher.sum)));
  const [q, p] = [tf.mul(student.sum, studentTemperature), tf.mul(teacher.sum, studentTemperature)];
  return {
    loss,
    weights: tf.sub(tf.div(student.exponentials, q), tf.div(teacher.exponentials, p)),
    ownWeights: own && tf.sub(tf.div(student.ownExponential, q), tf.div(teacher.ownExponential, p)),
  };
}

function softmax(tf, scores, own, temperature) {
  const highest = tf.max(scores, 1, true);
  const peak = own ? tf.maximum(highest, own) : highest;
  const logits = tf.mul(tf.sub(scores, peak), 1 / temperature);
  const exponentials = tf.exp(logits);
  const sum = tf.sum(exponentials, 1, true);
  if (!own) return { logits, exponentials, sum };
  const ownLogit = tf.mul(tf.sub(own, peak), 1 / temperature);
  const ownExponential = tf.exp(ownLogit);
  return { logits, exponentials, ownLogit, ownExponential, sum: tf.add(sum, ownExponential) };
}

/** The new visual bank stays a tensor; the assignment comes back, and decides how much each anchor moves. */
function prepareUpdate(tf, input) {
  const { dimension: D, momentum, seen } = input;
  const textual = bankTensors(tf, input.textual, D);
  const visual = tf.tensor2d(input.visual, [seen.length, D]);
  // WASM has no segmented sum, and that of the cpu backend looks at every row for every category
  const onDevice = tf.getBackend() === 'webgpu';
  let [moved, assignment] = [undefined, undefined];
  return {
    async run() {
      tf.dispose(moved);
      const [u, nearest] = tf.tidy(() => {
        const [unit] = unitRows(tf, input.teacher, D);
        return [unit, tf.argMax(tf.matMul(unit, textual.columns), 1)];
      });
      assignment = await nearest.data();
      const sums = onDevice
        ? tf.unsortedSegmentSum(u, nearest, seen.length)
        : tf.tensor2d(sumsOnHost(await u.data(), assignment, seen.length, D), [seen.length, D]);
      const { keep, add } = factors(assignment, seen, momentum);
      moved = tf.tidy(() =>
        tf.add(tf.mul(visual, tf.tensor2d(keep, [seen.length, 1])), tf.mul(sums, tf.tensor2d(add, [seen.length, 1]))),
      );
      tf.dispose([u, nearest, sums]);
      const corner = tf.slice(moved, [0, 0], [1, 1]); // its value waits for the device
      await corner.data();
      corner.dispose();
    },
    result: async () => ({ assignment, visual: await moved.data() }),
    dispose: () => tf.dispose([textual, visual, moved]),
  };
}

function sumsOnHost(unit, assignment, K, D) {
  const sums = new Float32Array(K * D);
  for (let i = 0; i < assignment.length; i++) {
    for (let d = 0, to = assignment[i] * D, from = i * D; d < D; d++) sums[to + d] += unit[from + d];
  }
  return sums;
}

/** visual <- keep * visual + add * (sum of the members), per category. */
function factors(assignment, seen, momentum) {
  const counts = new Uint32Array(seen.length);
  for (const k of assignment) counts[k]++;
  const keep = new Float32Array(seen.length).fill(1);
  const add = new Float32Array(seen.length);
  counts.forEach((count, k) => {
    if (count === 0) return;
    keep[k] = seen[k] ? momentum : 0;
    add[k] = (1 - keep[k]) / count;
  });
  return { keep, add };
}
