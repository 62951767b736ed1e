import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { rm, truncate } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AutoProcessor, CLIPVisionModelWithProjection, env, RawImage } from '@xenova/transformers';
import sharp from 'sharp';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { openDevice } from '../../lib/device.js';
import { onnxGraph } from '../../lib/export/onnx-graph.js';
import { measuringEnds, measuringSamples } from '../../lib/export/measuring.js';
import { openWritten } from '../../lib/export/onnx.js';
import { quantizeGraph, valuesToMeasure } from '../../lib/export/quantize-graph.js';
import { exportStudent, type ExportOptions } from '../../lib/export/student.js';
import { GraphBuilder, initialWeights, loadTeacher } from '../../lib/models/index.js';
import * as format from '../../lib/onnx/format.js';
import { importOnnxRuntime, openOnnxSession } from '../../lib/onnx/session.js';
import { findStudentFile, writeStudent } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { evaluateOnnx, type Tensor } from '../fixtures/onnx-reference.js';
import { randomNormal } from '../fixtures/random.js';
import { madeUpBank, madeUpStudent, writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, smallConfig, train } from '../fixtures/tiny.js';
import { andAll } from '../shared.js';

vi.mock('../../lib/onnx/format.js', { spy: true });

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const [from, images] = [at('student.safetensors'), at('images')];
beforeAll(async () => {
  await writeMadeUpStudent(from, 'mobilenet_v3_small');
  await writeMadeUpStudent(at('convnext_atto.safetensors'), 'convnext_atto');
  await madeUpBank().save(at('bank.safetensors'));
  await drawShapes(images, { count: 10 });
});
afterEach(() => vi.resetAllMocks());

const quantized = (more: Partial<ExportOptions> & { to: string }) =>
  exportStudent({ from, format: 'onnx', quantize: 'int8', images, ...more });

describe('the arithmetic', () => {
  /** Every operation, and what goes wrong easily: channels without weights, values that are always 0. */
  const network = (activation: 'relu' | 'relu6' | 'hardswish' | 'silu', gate: 'hardsigmoid' | 'sigmoid') => {
    const g = new GraphBuilder('own');
    const stem = g.activation(g.conv(g.images, 'stem', { channels: 8, kernel: 3, bias: true }), activation);
    const second = g.conv(stem, 'second', { channels: 8, kernel: 3, bias: true });
    const pooled = g.relu(g.maxPool(second, { kernel: 3, stride: 2, padding: 1 }));
    const deep = g.activation(g.conv(pooled, 'deep', { channels: 8, kernel: 3, groups: 8, bias: true }), activation);
    const squeezed = g.relu(g.conv(g.globalPool(deep), 'squeeze', { channels: 4, bias: true }));
    const scaled = g.channelScale(deep, g.activation(g.conv(squeezed, 'excite', { channels: 8, bias: true }), gate));
    const sum = g.add(g.conv(scaled, 'project', { channels: 8 }), pooled);
    const normed = g.activation(g.relu(g.batchNorm(sum, 'norm')), activation); // of a ReLU, hard-swish is no gate
    const dead = g.relu(g.conv(normed, 'dead', { channels: 8, bias: true }));
    const features = g.globalPool(g.maxPool(g.avgPool(g.add(dead, normed), 2), { kernel: 2, stride: 2, padding: 0 }));
    const graph = g.finish(
      g.linear(g.relu(g.linear(features, 'head.0', { features: 12 })), 'head.2', { features: 16 }),
    );
    const weights = initialWeights(graph, 5);
    weights['stem.weight']!.data.set(weights['stem.weight']!.data.map((value) => 3 * value));
    weights['stem.bias']!.data.set([0.5, -0.5, 0.2, 0, 0, 1, -1, 0.1]);
    weights['stem.weight']!.data.fill(0, 0, 27); // channels that are their bias
    weights['stem.weight']!.data.fill(1e-12, 27, 54);
    weights['norm.running_mean']!.data.fill(0.3);
    weights['dead.bias']!.data.fill(-1000);
    return onnxGraph(graph, weights, { resolution: 16, output: 'image_embeds', fold: true });
  };
  const pixelsOf = (seed: number): Tensor => ({
    shape: [1, 3, 16, 16],
    data: Float64Array.from(randomNormal(3 * 16 * 16, seed)),
  });
  const roundWeights = (graph: format.OnnxGraph): format.OnnxGraph => ({
    ...graph,
    initializer: graph.initializer.map((tensor) => {
      if (tensor.dims.length < 2) return tensor;
      const data = new Float32Array(tensor.rawData.slice().buffer);
      const size = data.length / Number(tensor.dims[0]);
      const rounded = data.map((value, i) => {
        const row = data.subarray(Math.floor(i / size) * size, (Math.floor(i / size) + 1) * size);
        const step = row.reduce((most, other) => Math.max(most, Math.abs(other)), 0) / 64;
        return step === 0 ? 0 : Math.round(value / step) * step;
      });
      return { ...tensor, rawData: new Uint8Array(rounded.buffer) };
    }),
  });

  test.each([
    ['relu', 'sigmoid'],
    ['relu6', 'hardsigmoid'],
    ['hardswish', 'hardsigmoid'],
    ['silu', 'sigmoid'],
  ] as const)('of %s and %s is that of values rounded to 256 steps', async (activation, gate) => {
    const graph = network(activation, gate);
    const measured = new Set(valuesToMeasure(graph));
    const ranges = new Map([...measured].map((name) => [name, { min: Infinity, max: -Infinity }]));
    for (const seed of [1, 2, 3, 4])
      evaluateOnnx(graph, pixelsOf(seed), (name, value) => {
        const range = ranges.get(name);
        if (range !== undefined)
          ranges.set(name, { min: Math.min(range.min, ...value.data), max: Math.max(range.max, ...value.data) });
        return value;
      });
    // what is read by a hard function alone has its range from -3
    const isGate = (readers: string[], name: string) =>
      readers.every((op) => op === 'HardSwish') && !name.startsWith('norm') ? 'swish' : readers.every((op) => op === 'HardSigmoid') ? 'sigmoid' : undefined; // prettier-ignore
    const reference = (image: Tensor) =>
      evaluateOnnx(roundWeights(graph), image, (name, value, readers) => {
        const range = ranges.get(name);
        if (range === undefined || name.endsWith('.flat')) return value;
        const kind = isGate(readers, name);
        const least = kind === undefined ? Math.min(0, range.min) : -3;
        const most = kind === 'sigmoid' ? 3 : Math.max(0, range.max);
        const step = (most - least) / 255 || 1;
        const round = (x: number) => Math.round(Math.min(most, Math.max(least, x)) / step) * step;
        return { ...value, data: value.data.map(round) };
      }).get('image_embeds')!.data;

    const made = quantizeGraph(graph, ranges);
    for (const { name, rawData } of made.initializer)
      if (name.endsWith('/scale'))
        expect(Math.min(...new Float32Array(rawData.slice().buffer)), name).toBeGreaterThan(0);
    // no function of floats is left but between a ReLU and another
    const left = made.node.filter(({ opType }) => ['Relu', 'Clip', 'HardSwish', 'HardSigmoid'].includes(opType));
    expect(left.filter(({ input }) => !input[0]!.endsWith('/uint8')).map(({ opType }) => opType)).toEqual(
      { relu: ['Relu'], relu6: ['Relu'], hardswish: ['HardSwish'], silu: [] }[activation],
    );
    const bytes = format.encodeOnnx({
      irVersion: 7n,
      producerName: '',
      producerVersion: '',
      docString: '',
      graph: made,
      opsetImport: [{ domain: '', version: 14n }],
      metadataProps: [],
    });
    const { Tensor: Input } = await importOnnxRuntime();
    const session = await openOnnxSession('made up', 1, bytes);
    for (const seed of [1, 2, 3, 4]) {
      const image = pixelsOf(seed);
      const input = new Input('float32', Float32Array.from(image.data), [1, 3, 16, 16]);
      const found = (await session.run({ pixel_values: input }))['image_embeds']!.data as Float32Array;
      const [rounded, exact] = [reference(image), evaluateOnnx(graph, image).get('image_embeds')!.data];
      const scale = Math.hypot(...exact);
      const away = (other: Float64Array) => Math.hypot(...found.map((value, i) => value - other[i]!)) / scale;
      expect(away(rounded), `image ${seed}, to the rounded network`).toBeLessThan(0.016);
      expect(away(exact), `image ${seed}, to the exact network`).toBeLessThan(0.06);
    }
  });
});

// of start values: trained ones are nearer
describe.each(
  andAll<[string, number]>(
    'integers of mobilenet_v2, efficientnet_b0, tf_efficientnetv2_b0 and mobilenetv4_conv_small',
    [
      ['mobilenet_v3_small', 0.98],
      ['resnet18', 0.99],
    ],
    [
      ['mobilenet_v2', 0.96],
      ['efficientnet_b0', 0.91],
      ['tf_efficientnetv2_b0', 0.9],
      ['mobilenetv4_conv_small', 0.96],
    ],
  ),
)('%s', (name, least) => {
  test('keeps its embeddings at little more than a quarter of its size', async () => {
    const file = at(`${name}.safetensors`);
    await writeMadeUpStudent(file, name);
    const { bytes: floats } = await exportStudent({ from: file, to: at('float.onnx'), format: 'onnx', images });
    const to = at(`${name}.onnx`);
    const { bytes, tensors, quantization, comparison } = await quantized({ from: file, to });
    expect(comparison.cosine).toBeGreaterThan(0.9999);
    expect(quantization).toMatchObject({ calibrationImages: 32, comparison: { images: 8, folder: images } });
    const { meanCosine, cosine, sameAnswers } = quantization!.comparison;
    expect(meanCosine).toBeGreaterThan(least);
    expect(meanCosine).toBeGreaterThanOrEqual(cosine);
    expect(sameAnswers).toBeUndefined();
    expect(bytes).toBe(statSync(to).size);
    expect(bytes / floats).toBeLessThan(0.32);
    const { graph, metadataProps } = format.decodeOnnx(readFileSync(to));
    expect(tensors).toBe(graph.initializer.length);
    expect(metadataProps.find(({ key }) => key === 'quantization')!.value).toBe(
      '{"weights":"int8","activations":"uint8","calibrationImages":32}',
    );
    const weights = graph.initializer.filter(({ dataType, dims }) => dataType === 3 && dims.length > 1);
    const products = graph.node.filter(({ opType }) => ['Conv', 'Gemm'].includes(opType));
    // all in integers, but the first where there is no MaxPool
    const floating = products.filter(({ input }) => input[0] === 'pixel_values').length;
    expect(floating).toBe(graph.node.some(({ opType }) => opType === 'MaxPool') ? 0 : 1);
    expect(weights.length).toBe(products.length - floating);
    const run = await openWritten(to, 64);
    const embed = async (image: number) => {
      const pixels = Float32Array.from({ length: 3 * 64 ** 2 }, (_, i) => Math.sin(0.1 * i * image));
      return (await run(pixels, 1))['image_embeds']!.slice();
    };
    const first = await embed(1);
    await embed(2);
    expect(await embed(1), 'an image after another').toEqual(first);
    const most = (data: Uint8Array) =>
      new Int8Array(data.buffer, data.byteOffset, data.length).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    // two products with uint8 fit into 16 bits
    expect(Math.max(...weights.map(({ rawData }) => most(rawData)))).toBe(64);
  });
});

test('quickGelu, whose parts onnxruntime makes one of, is measured and keeps its embeddings', async () => {
  const g = new GraphBuilder('own');
  const first = g.activation(g.conv(g.images, 'first', { channels: 8, kernel: 3, stride: 2, bias: true }), 'quickGelu');
  const second = g.activation(g.conv(first, 'second', { channels: 16, kernel: 3, stride: 2 }), 'quickGelu');
  const graph = g.finish(g.linear(g.globalPool(second), 'last', { features: 24 }));
  const { info } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
  await writeStudent(at('own.safetensors'), { ...info, architecture: 'own', graph }, initialWeights(graph, 5));
  const { quantization } = await quantized({ from: at('own.safetensors'), to: at('own.onnx') });
  expect(quantization!.comparison.meanCosine).toBeGreaterThan(0.99);
});

test('values are measured by their ends, and many of them by evenly spread ones', async () => {
  const [side, channels] = [160, 6];
  const g = new GraphBuilder('own');
  const stem = g.relu(g.conv(g.images, 'stem', { channels, kernel: 3, stride: 1, bias: true }));
  const own = g.finish(g.globalPool(stem));
  const graph = onnxGraph(own, initialWeights(own, 5), { resolution: side, output: 'features', fold: true });
  const model = { irVersion: 7n, producerName: '', producerVersion: '', docString: '', graph, opsetImport: [{ domain: '', version: 14n }], metadataProps: [] }; // prettier-ignore
  const names = ['stem.relu', 'stem.relu.pool'];
  const run = async (of: format.OnnxModel) =>
    (await openWritten('made up', side, format.encodeOnnx(of)))(randomNormal(3 * side ** 2, 3), 1);
  const ends = measuringEnds(model, names);
  const told = await run(ends.model);
  const samples = measuringSamples(
    model,
    new Map(names.map((name) => [name, told[ends.outputs.get(name)!.size]![0]!])),
  );
  const taken = await run(samples.model);
  const all = evaluateOnnx(graph, {
    shape: [1, 3, side, side],
    data: Float64Array.from(randomNormal(3 * side ** 2, 3)),
  });
  for (const [name, step] of [
    ['stem.relu', 3],
    ['stem.relu.pool', 1],
  ] as const) {
    // prettier-ignore
    const { data } = all.get(name)!;
    const { min, max, size } = ends.outputs.get(name)!;
    expect(told[size]![0], name).toBe(data.length);
    expect(told[min]![0], name).toBeCloseTo(
      data.reduce((a, b) => Math.min(a, b)),
      5,
    );
    expect(told[max]![0], name).toBeCloseTo(
      data.reduce((a, b) => Math.max(a, b)),
      5,
    );
    const wanted = data.filter((_, i) => i % step === 0);
    const sample = taken[samples.outputs.get(name)!.sample]!;
    expect(sample, name).toHaveLength(wanted.length);
    expect(Math.max(...sample.map((value, i) => Math.abs(value - wanted[i]!))), name).toBeLessThan(1e-5);
  }
});

test('the same images give the same bytes', async () => {
  await quantized({ to: at('once.onnx') });
  await quantized({ to: at('again.onnx') });
  expect(readFileSync(at('again.onnx')).equals(readFileSync(at('once.onnx')))).toBe(true);
});

test('with a classifier it says how many answers stay the same', async () => {
  const to = at('classifier.onnx');
  const { quantization } = await quantized({ to, classifier: true, temperature: 0.1 });
  expect(quantization!.comparison.images).toBe(8);
  expect(quantization!.comparison.sameAnswers).toBeGreaterThanOrEqual(7);
  const { Tensor: Input } = await importOnnxRuntime();
  const session = await openOnnxSession(to);
  const pixels = Float32Array.from(randomNormal(3 * 64 * 64, 2));
  const { image_embeds: embedding, logits } = (await session.run({
    pixel_values: new Input('float32', pixels, [1, 3, 64, 64]),
  })) as unknown as Record<string, { data: Float32Array }>;
  const bank = madeUpBank();
  for (let k = 0; k < 3; k++) {
    const dot = embedding!.data.reduce((sum, value, d) => sum + value * bank.data[24 * k + d]!, 0);
    expect(logits!.data[k]).toBeCloseTo((10 * dot) / Math.hypot(...embedding!.data), 4);
  }
});

test('without its head it gives pooled features', async () => {
  const { quantization } = await quantized({ to: at('features.onnx'), head: 'drop' });
  expect(quantization!.comparison.meanCosine).toBeGreaterThan(0.98);
  expect((await openOnnxSession(at('features.onnx'))).outputNames).toEqual(['features']);
});

test('it is evaluated as a teacher is, and is no student', async () => {
  const to = at('teacher.onnx');
  await quantized({ to });
  using device = await openDevice('cpu');
  const teacher = await loadTeacher(to, { device });
  expect(teacher).toMatchObject({ kind: 'onnx', embeddingSize: 24, resolution: 64 });
  await teacher.dispose();
  await expect(findStudentFile(to)).rejects.toMatchObject({
    code: 'BAD_FILE',
    message: expect.stringContaining('is a network for other programs') as string,
    mend: expect.stringContaining('--teacher') as string,
  });
});

test('few images are calibrated on and compared', async () => {
  await drawShapes(at('few'), { count: 1 });
  const { quantization } = await quantized({ to: at('few.onnx'), images: at('few') });
  expect(quantization).toMatchObject({ calibrationImages: 4, comparison: { images: 4 } });
});

test.each<[string, number, string]>([
  ['all alike', 6, 'the 5 images of'],
  ['a single one', 1, 'there is one image in'],
])('images that are %s are refused', async (what, count, message) => {
  const own = at(what);
  mkdirSync(own);
  const [pixels, size] = [Buffer.alloc(3 * 64 * 64), { width: 64, height: 64, channels: 3 }] as const;
  for (let i = 0; i < count; i++) {
    pixels.fill(100 + (i % 2)); // nearly
    await sharp(pixels, { raw: size })
      .png()
      .toFile(join(own, `${i}.png`));
  }
  await expect(quantized({ to: at('alike.onnx'), images: own })).rejects.toMatchObject({
    code: 'BAD_DATASET',
    option: 'images',
    message: expect.stringContaining(message) as string,
  });
  expect(existsSync(at('alike.onnx'))).toBe(false);
});

test('@xenova/transformers loads it from its folder, which has the network in float32 too', async () => {
  const to = at('folder');
  const options = { from, to, format: 'transformers', images } as const;
  const { bytes: floats } = await exportStudent(options);
  const { bytes, quantization, comparison } = await exportStudent({ ...options, quantize: 'int8' });
  expect(readdirSync(join(to, 'onnx')).sort()).toEqual(['vision_model.onnx', 'vision_model_quantized.onnx']);
  expect(comparison.cosine).toBeGreaterThan(0.9999);
  expect(bytes - floats).toBe(statSync(join(to, 'onnx', 'vision_model_quantized.onnx')).size);
  [env.localModelPath, env.allowRemoteModels] = [dirname(to), false];
  const processor = await AutoProcessor.from_pretrained(basename(to), {});
  const input = (await processor([await RawImage.read(join(images, readdirSync(images)[0]!, '0.png'))])) as object;
  const embed = async (quantized: boolean) => {
    const model = await CLIPVisionModelWithProjection.from_pretrained(basename(to), { quantized });
    return ((await model(input)) as { image_embeds: { data: Float32Array } }).image_embeds.data;
  };
  const [floating, whole] = [await embed(false), await embed(true)];
  const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const cosine = dot(floating, whole) / Math.sqrt(dot(floating, floating) * dot(whole, whole));
  expect(cosine).toBeGreaterThan(0.97);
  expect(cosine).toBeLessThan(0.999999);
  expect(quantization!.comparison.images).toBe(8);
  await exportStudent(options);
  expect(readdirSync(join(to, 'onnx'))).toEqual(['vision_model.onnx']);
});

test('an export that integers spoil is not left behind', async () => {
  const { encodeOnnx } = await vi.importActual<typeof format>('../../lib/onnx/format.js');
  vi.mocked(format.encodeOnnx).mockImplementation((model) => {
    const initializer = model.graph.initializer.map((tensor) =>
      tensor.dataType === 3 && tensor.dims.length > 1
        ? { ...tensor, rawData: tensor.rawData.map((byte, i) => (i % 2 === 0 ? byte : 0)) }
        : tensor,
    );
    return encodeOnnx({ ...model, graph: { ...model.graph, initializer } });
  });
  await expect(quantized({ to: at('spoilt.onnx') })).rejects.toMatchObject({
    code: 'EXPORT_FAILED',
    option: 'quantize',
    message: expect.stringMatching(/mean cosine of -?0\.\d{4} with those in float32, less than 0\.9\./u) as string,
  });
  expect(existsSync(at('spoilt.onnx'))).toBe(false);
  expect(readdirSync(folder).filter((name) => /\.(?:part|tmp)$/u.test(name))).toEqual([]);
});

test("a run's own images are taken as they were trained on, in a pack too, while they are there", async () => {
  const [pack, run] = [at('images.pack'), at('run')];
  await packImages(await openImages(images), { output: pack, as: 'raw', shortSide: 64 });
  await train(smallConfig(pack, run, { train: { maxSteps: 1 } }));
  const { quantization } = await quantized({ from: run, to: at('own.onnx'), images: undefined });
  expect(quantization).toMatchObject({ calibrationImages: expect.any(Number) as number, comparison: { folder: pack } });
  for (const spoil of [() => truncate(pack, 100), () => rm(pack)]) {
    await spoil();
    await expect(quantized({ from: run, to: at('gone.onnx'), images: undefined })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'images',
      found: pack,
    });
    const { comparison } = await exportStudent({ from: run, format: 'torchvision', to: at('gone.safetensors') });
    expect(comparison).toMatchObject({ folder: undefined, images: 4 });
  }
});

test.each<[string, Partial<ExportOptions>, string]>([
  ['without images', { images: undefined }, 'images'],
  ['with norms of their own', { fold: false }, 'fold'],
  ['for another program', { format: 'torchvision', to: at('none.safetensors') }, 'quantize'],
  ['in other integers', { quantize: 'int4' as 'int8' }, 'quantize'],
  ['of layer norms', { from: at('convnext_atto.safetensors') }, 'quantize'],
])('%s it is refused', async (_, options, option) => {
  await expect(quantized({ to: at('none.onnx'), ...options })).rejects.toMatchObject({ code: 'BAD_OPTION', option });
  expect(existsSync(at('none.onnx'))).toBe(false);
});
