import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { exportStudent } from '../../lib/export/student.js';
import { GraphBuilder, initialWeights, type Value } from '../../lib/models/index.js';
import { decodeOnnx } from '../../lib/onnx/format.js';
import { writeStudent } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { madeUpBank, madeUpStudent } from '../fixtures/student.js';
import { drawShapes } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
beforeAll(async () => {
  await drawShapes(at('images'), { count: 3 });
  await madeUpBank().save(at('bank.safetensors'));
});

const conv = (g: GraphBuilder, x: Value, name: string) => g.conv(x, name, { channels: 8, kernel: 3, bias: true });
const stem = (g: GraphBuilder, name = 'stem') =>
  g.relu(g.conv(g.images, name, { channels: 8, kernel: 3, stride: 2, bias: true }));
const head = (g: GraphBuilder, x: Value, name = 'head') => g.linear(g.globalPool(x), name, { features: 24 });

/** Networks of the engine's operations, put together as no student of this package is. */
const networks: Record<string, (g: GraphBuilder) => Value> = {
  'squeeze and excitation by linear layers': (g) => {
    const x = stem(g);
    const hidden = g.relu(g.linear(g.globalPool(x), 'squeeze', { features: 4 }));
    return head(g, g.channelScale(x, g.activation(g.linear(hidden, 'excite', { features: 8 }), 'sigmoid')));
  },
  'sums of linear layers and of pooled maps': (g) => {
    const x = g.globalPool(stem(g));
    const sum = g.add(x, g.relu(g.batchNorm(g.linear(x, 'beside', { features: 8 }), 'norm')));
    return g.add(g.linear(sum, 'first', { features: 24 }), g.conv(sum, 'second', { channels: 24 }));
  },
  'a convolution of two norms': (g) => {
    const x = stem(g);
    const [a, b] = [conv(g, x, 'shared'), g.conv(x, 'shared', { channels: 8, kernel: 3, bias: true, shared: true })];
    return head(g, g.add(g.relu(g.batchNorm(a, 'first')), g.relu(g.batchNorm(b, 'second'))));
  },
  'a value twice': (g) => {
    const x = conv(g, stem(g), 'one');
    return head(g, g.relu(g.add(x, x)));
  },
  'names of the network in and around it': (g) => {
    const x = conv(g, stem(g, 'pixel_values'), 'image_embeds');
    return head(g, conv(g, conv(g, g.relu(x), 'logits'), 'textual_bank'), 'features');
  },
  'names of what integers need': (g) => {
    const last = ['a/uint8', 'a/float', 'a/scale', 'a/min', 'a/weight'].reduce(
      (x, name) => conv(g, x, name),
      conv(g, stem(g), 'a'),
    );
    return head(g, g.activation(last, 'hardswish'));
  },
};

describe.each(Object.entries(networks))('%s', (name, make) => {
  const [from, to] = [at(`${name}.safetensors`), at(`${name}.onnx`)];
  beforeAll(async () => {
    const g = new GraphBuilder('own');
    const graph = g.finish(make(g));
    const weights = initialWeights(graph, 5);
    Object.entries(weights).forEach(([key, { shape, data }], seed) => {
      if (shape.length === 1) data.set(randomNormal(data.length, seed).map((value) => 0.3 * value));
      if (key.endsWith('running_var')) data.set(data.map((value) => 1 + value ** 2));
    });
    const { info } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    await writeStudent(from, { ...info, architecture: 'own', graph }, weights);
  });

  test.each([true, false])('agrees with the engine, norms folded: %s', async (fold) => {
    const options = {
      from,
      to,
      format: 'onnx',
      fold,
      classifier: at('bank.safetensors'),
      images: at('images'),
    } as const;
    expect((await exportStudent(options)).comparison.cosine).toBeGreaterThan(0.999999);
  });

  test('stays itself in integers', async () => {
    const { quantization } = await exportStudent({ from, to, format: 'onnx', quantize: 'int8', images: at('images') });
    expect(quantization!.comparison.cosine).toBeGreaterThan(0.99);
    const { graph } = decodeOnnx(readFileSync(to));
    const image = graph.input[0]!.name; // the layers that read it stay in float32
    const layers = graph.node.filter(({ opType, input }) => ['Conv', 'Gemm'].includes(opType) && input[0] !== image);
    expect(layers.length).toBeGreaterThan(0);
    expect(layers.every(({ input }) => graph.node.some((node) => node.opType === 'DequantizeLinear' && node.output[0] === input[1]))).toBe(true); // prettier-ignore
  });
});
