// The same encoder in tfjs: our graph of it walked with tfjs's operations, from the same weights.
import { openDevice } from '../dist/index.js';
import { encoderData, startEncoder } from './encoder.mjs';

/** @returns as trainOurs in encoder.mjs */
export async function trainTfjs(tf, spec) {
  const { graph, record } = await startWeights(spec);
  const weights = Object.fromEntries(
    graph.parameters
      .filter(({ trainable }) => trainable)
      .map(({ name }) => [name, tf.variable(toTfjs(tf, name, record[name], graph))]),
  );
  const data = encoderData(spec);
  const images = tf.tidy(() =>
    tf.transpose(tf.tensor4d(data.images, [spec.batch, 3, spec.resolution, spec.resolution]), [0, 2, 3, 1]),
  );
  const targets = tf.tensor2d(data.targets, [spec.batch, spec.outputs]);
  const optimizer = tf.train.momentum(spec.learningRate, spec.momentum);
  const lossOf = () =>
    tf.mul(tf.sum(tf.square(tf.sub(walk(tf, graph, weights, images), targets))), 1 / (2 * spec.batch));
  return {
    async run() {
      const { value, grads } = tf.variableGrads(lossOf, Object.values(weights));
      optimizer.applyGradients(grads);
      const [loss] = await value.data();
      tf.dispose([value, grads]);
      return loss;
    },
    dispose: () => tf.dispose([weights, images, targets]),
  };
}

async function startWeights(spec) {
  const device = await openDevice('cpu');
  const encoder = await startEncoder(device, spec);
  try {
    return { graph: encoder.graph, record: await encoder.state() };
  } finally {
    encoder.dispose();
    device.dispose();
  }
}

/**
 * Convolutions lie OIHW with us; HWIO, or HWI1 for depthwise ones, with tfjs. Linear layers lie [outputs, inputs]; the
 * other way round with tfjs.
 */
function toTfjs(tf, name, { shape, data }, graph) {
  const node = graph.nodes.find(({ parameters }) => parameters?.includes(name));
  const tensor = tf.tensor(data, shape);
  if (shape.length === 2) return tf.transpose(tensor);
  if (shape.length !== 4) return tensor;
  return tf.transpose(tensor, node.attributes.groups > 1 ? [2, 3, 0, 1] : [2, 3, 1, 0]);
}

/** The output [B, outputs] of the graph in training: norms take the statistics of the batch. */
function walk(tf, graph, weights, images) {
  const values = [images];
  for (const { op, inputs, parameters, attributes } of graph.nodes) {
    const [x, other] = inputs.map((index) => values[index]);
    values.push(
      operations[op](
        tf,
        x,
        parameters.map((name) => weights[name]),
        attributes,
        other,
      ),
    );
  }
  return values[graph.output];
}

const operations = {
  conv(tf, x, [weight], { stride, padding, dilation, groups }) {
    const convolve = groups > 1 ? tf.depthwiseConv2d : tf.conv2d;
    return convolve(x, weight, stride, padding, 'NHWC', dilation, 'floor');
  },
  batchNorm(tf, x, [scale, shift], { eps }) {
    const { mean, variance } = tf.moments(x, [0, 1, 2]);
    return tf.batchNorm(x, mean, variance, shift, scale, eps);
  },
  activation: (tf, x, _weights, { kind }) => ({ relu: tf.relu, relu6: tf.relu6 })[kind](x),
  add: (tf, x, _weights, _attributes, other) => tf.add(x, other),
  globalPool: (tf, x) => tf.mean(x, [1, 2]),
  linear: (tf, x, [weight, bias]) => tf.add(tf.matMul(x, weight), bias),
};
