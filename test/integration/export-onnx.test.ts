import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { readStart } from '../../lib/dense/start.js';
import { openDevice } from '../../lib/device.js';
import { exportStudent } from '../../lib/export/student.js';
import {
  GraphBuilder,
  initialWeights,
  studentGraph,
  listStudents,
  loadTeacher,
  type GraphSpec,
  type NativeTeacher,
} from '../../lib/models/index.js';
import * as format from '../../lib/onnx/format.js';
import { importOnnxRuntime, openOnnxSession } from '../../lib/onnx/session.js';
import { loadStudent, readStudent, writeStudent } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpBank, madeUpStudent, writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes } from '../fixtures/tiny.js';

vi.mock('../../lib/onnx/format.js', { spy: true });

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const from = at('student.safetensors');
beforeAll(async () => {
  await writeMadeUpStudent(from, 'mobilenet_v2', { widthMultiplier: 0.35 });
  await drawShapes(at('images'), { count: 3 });
});
afterEach(() => vi.resetAllMocks());

async function runOnnx(
  file: string,
  count: number,
): Promise<Record<string, { dims: readonly number[]; data: Float32Array }>> {
  const { Tensor } = await importOnnxRuntime();
  const session = await openOnnxSession(file);
  const pixels = Float32Array.from({ length: count * 3 * 64 * 64 }, (_, i) => Math.sin(i * 0.7));
  return (await session.run({ pixel_values: new Tensor('float32', pixels, [count, 3, 64, 64]) })) as never;
}

describe.each(listStudents())('%s', (name) => {
  const [file, to] = [at(`${name}.safetensors`), at(`${name}.onnx`)];
  beforeAll(async () => {
    await writeMadeUpStudent(file, name);
  });
  test.each([true, false])('agrees with the engine on images, norms folded: %s', async (fold) => {
    const { comparison, tensors } = await exportStudent({ from: file, to, format: 'onnx', fold, images: at('images') });
    expect(comparison).toEqual({ images: 8, folder: at('images'), cosine: expect.any(Number) as unknown });
    expect(comparison.cosine).toBeGreaterThan(0.999999);
    const operations = format.decodeOnnx(readFileSync(to)).graph.node.map(({ opType }) => opType);
    const hasBatchNorm = studentGraph(name, { embeddingSize: 8 }).nodes.some(({ op }) => op === 'batchNorm');
    expect(operations.includes('BatchNormalization')).toBe(!fold && hasBatchNorm);
    expect(tensors).toBe(format.decodeOnnx(readFileSync(to)).graph.initializer.length);
  });
});

describe("a network of one's own", () => {
  /** With what no student has: a norm behind a sum, means of windows, dropout, an embedding that no head makes. */
  const own = (head: string): GraphSpec => {
    const g = new GraphBuilder('own');
    const first = g.convNorm(g.images, 'first', { channels: 8, kernel: 3, stride: 2 }, 'relu');
    const sum = g.relu(g.batchNorm(g.add(g.conv(first, 'second', { channels: 8, kernel: 3 }), first), 'norm'));
    const pooled = g.dropout(g.globalPool(g.avgPool(sum, 2)), 0.2);
    return g.finish(g.linear(g.relu(g.linear(pooled, `${head}.0`, { features: 16 })), `${head}.2`, { features: 24 }));
  };
  const write = async (name: string, head: string) => {
    const [file, graph] = [at(`${name}.safetensors`), own(head)];
    const { info } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    const weights = initialWeights(graph, 5);
    weights['norm.running_mean']!.data.fill(0.3);
    await writeStudent(file, { ...info, architecture: 'own', graph }, weights);
    return file;
  };

  test.each([true, false])('is in its file, and agrees with the engine, norms folded: %s', async (fold) => {
    const file = await write('own', 'head');
    const { comparison } = await exportStudent({
      from: file,
      to: at('own.onnx'),
      format: 'onnx',
      fold,
      images: at('images'),
    });
    expect(comparison.cosine).toBeGreaterThan(0.999999);
    expect(
      format
        .decodeOnnx(readFileSync(at('own.onnx')))
        .graph.node.filter(({ opType }) => opType === 'BatchNormalization'),
    ).toHaveLength(fold ? 1 : 2);
    await exportStudent({
      from: file,
      to: at('own-features.onnx'),
      format: 'onnx',
      fold,
      head: 'drop',
      images: at('images'),
    });
  });

  test('with causal attention agrees with the engine', async () => {
    const g = new GraphBuilder('causal');
    const patches = g.conv(g.images, 'patches', { channels: 24, kernel: 16, stride: 16, padding: 0 });
    const tokens = g.positions(patches, 'positions', { count: 17, first: 1 });
    const qkv = g.linear(tokens, 'qkv', { features: 72 });
    const graph = g.finish(g.globalPool(g.selfAttention(qkv, 2, { causal: true })));
    const { info } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    const weights = initialWeights(graph, 5);
    weights['qkv.weight']!.data.set(weights['qkv.weight']!.data.map((value) => 4 * value)); // or all tokens count alike
    const from = at('causal.safetensors');
    await writeStudent(from, { ...info, architecture: 'causal', graph }, weights);
    const to = at('causal.onnx');
    const { comparison } = await exportStudent({ from, to, format: 'onnx', images: at('images') });
    expect(comparison.cosine).toBeGreaterThan(0.999999);
    const [output] = format.decodeOnnx(readFileSync(to)).graph.output;
    expect(output!.type.tensorType.shape!.dim[1]).toMatchObject({ dimValue: 24n });
  });

  test('is read by what takes students, and refused by name where tools must know it', async () => {
    const file = await write('own', 'head');
    await exportStudent({ from: file, to: at('own-again.safetensors') });
    using device = await openDevice('cpu');
    const { student, info } = await loadStudent(at('own-again.safetensors'), { device });
    expect([student.name, student.graph]).toEqual(['own', own('head')]);
    expect(info.graph).toEqual(own('head'));
    const teacher = await loadTeacher(file, { device });
    expect(teacher).toMatchObject({ kind: 'native', embeddingSize: 24 });
    await teacher.dispose();
    await expect(readStart(file)).rejects.toMatchObject({
      code: 'BAD_MODEL',
      option: 'student',
      message: expect.stringContaining('is one of your own') as string,
    });
    await expect(exportStudent({ from: file, to: at('own-timm'), format: 'timm' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('timm does not know own') as string,
    });
  });

  test('needs a head of that name where its features are asked for', async () => {
    const file = await write('headless', 'embedding');
    await exportStudent({ from: file, to: at('headless.onnx'), format: 'onnx' });
    await expect(
      exportStudent({ from: file, to: at('headless-features.onnx'), format: 'onnx', head: 'drop' }),
    ).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('own has no projection head') as string,
    });
  });

  test('is refused where its graph is none', async () => {
    const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    const { nodes, parameters, ...rest } = own('head');
    const graphs = [
      {},
      { ...own('head'), nodes: [5] },
      { ...own('head'), output: -1 },
      ...[2, ['2'], [0], [2 ** 60]].map((shape) => ({
        ...rest,
        nodes,
        parameters: [{ ...parameters[0], shape }, ...parameters.slice(1)],
      })),
      { ...rest, parameters, nodes: [{ ...nodes[0], parameters: 'layer' }] },
    ];
    for (const graph of graphs) {
      await writeStudent(at('wrong.safetensors'), { ...info, graph: graph as GraphSpec }, weights);
      await expect(readStudent(at('wrong.safetensors'))).rejects.toMatchObject({
        code: 'BAD_MODEL',
        message: expect.stringContaining('its graph is') as string,
      });
    }
    for (const [key, value] of Object.entries({ std: [0.2, 0, 0.2], resolution: 0, embeddingSize: 0 })) {
      await writeStudent(at('wrong.safetensors'), { ...info, [key]: value }, weights);
      await expect(readStudent(at('wrong.safetensors'))).rejects.toMatchObject({
        code: 'BAD_MODEL',
        message: expect.stringContaining(`its ${key} is`) as string,
      });
    }
  });

  test('is refused where it gives embeddings of another size than its file says, which would be scored as other images', async () => {
    const graph = own('head');
    await writeStudent(
      at('other-size.safetensors'),
      { ...(await readStudent(from)).info, architecture: 'own', embeddingSize: 12, graph },
      initialWeights(graph, 5),
    );
    using device = await openDevice('cpu');
    const refusal = {
      code: 'BAD_MODEL',
      message: expect.stringMatching(/does not give one embedding of 12 values an image, but 24 values/u) as string,
    };
    const { student } = await loadStudent(at('other-size.safetensors'), { device });
    expect(() => student.compile({ batch: 2, resolution: 32 })).toThrow(expect.objectContaining(refusal) as Error);
    using teacher = (await loadTeacher(at('other-size.safetensors'), { device })) as NativeTeacher;
    await expect(teacher.embed(new Float32Array(3 * 64 * 64), 1)).rejects.toMatchObject(refusal);
  });
});

test('any batch size, one output, and what it is in the metadata', async () => {
  const to = at('plain.onnx');
  await exportStudent({ from, to, format: 'onnx' });
  for (const count of [1, 5]) {
    const outputs = await runOnnx(to, count);
    expect(Object.entries(outputs).map(([name, { dims }]) => [name, ...dims])).toEqual([['image_embeds', count, 24]]);
  }
  const { metadataProps, graph, opsetImport } = format.decodeOnnx(readFileSync(to));
  const metadata = Object.fromEntries(metadataProps.map(({ key, value }) => [key, value]));
  expect(metadata).toMatchObject({
    format: 'lgdistill-onnx',
    architecture: 'mobilenet_v2',
    widthMultiplier: '0.35',
    resolution: '64',
    names: '["cat","dog","bird"]',
    head: 'keep',
  });
  expect(JSON.parse(metadata['preprocessing']!)).toMatchObject({
    centerCrop: 64,
    channels: 'RGB',
    mean: [0.48, 0.46, 0.41],
    std: [0.27, 0.26, 0.28],
  });
  expect(
    graph.input[0]!.type.tensorType.shape!.dim.map(({ dimParam, dimValue }) => dimParam || Number(dimValue)),
  ).toEqual(['batch', 3, 64, 64]);
  expect(opsetImport).toMatchObject([{ version: 14n }]);
});

test('parameters keep their names where norms are not folded', async () => {
  const to = at('named.onnx');
  await exportStudent({ from, to, format: 'onnx', fold: false });
  const names = format.decodeOnnx(readFileSync(to)).graph.initializer.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['features.0.0.weight', 'features.0.1.running_mean', 'head.2.bias']));
});

test('the text bank as classifier: logits are cosines over the temperature', async () => {
  const bank = madeUpBank();
  await bank.save(at('bank.safetensors'));
  const to = at('classifier.onnx');
  await exportStudent({ from, to, format: 'onnx', classifier: true, temperature: 0.1 });
  const { image_embeds: embeds, logits } = await runOnnx(to, 2);
  expect(logits!.dims).toEqual([2, 3]);
  for (let i = 0; i < 2; i++) {
    const row = embeds!.data.subarray(24 * i, 24 * (i + 1));
    for (let k = 0; k < 3; k++) {
      const cosine = row.reduce((sum, value, d) => sum + value * bank.data[24 * k + d]!, 0) / Math.hypot(...row);
      expect(logits!.data[3 * i + k]).toBeCloseTo(10 * cosine, 4);
    }
  }
  const metadata = Object.fromEntries(
    format.decodeOnnx(readFileSync(to)).metadataProps.map(({ key, value }) => [key, value]),
  );
  expect(metadata).toMatchObject({
    classes: '["cat","dog","bird"]',
    classifierBank: bank.hash,
    classifierTemperature: '0.1',
  });
  // of a file, and with the default temperature
  await exportStudent({ from, to: at('other.onnx'), format: 'onnx', classifier: at('bank.safetensors') });
  const again = await runOnnx(at('other.onnx'), 2);
  expect(again['logits']!.data[0]! * 2).toBeCloseTo(logits!.data[0]!, 4);
});

test('without its head it gives pooled features', async () => {
  const to = at('features.onnx');
  await exportStudent({ from, to, format: 'onnx', head: 'drop' });
  const outputs = await runOnnx(to, 2);
  expect(Object.entries(outputs).map(([name, { dims }]) => [name, ...dims])).toEqual([['features', 2, 1280]]);
});

const damage: [string, (model: format.OnnxModel) => void][] = [
  [
    'other weights',
    ({ graph }) =>
      graph.initializer
        .filter(({ name }) => name.endsWith('.weight'))
        .forEach((tensor) => {
          tensor.rawData = new Uint8Array(tensor.rawData.map((byte, i) => (i % 4 === 3 ? byte ^ 128 : byte)));
        }),
  ],
  [
    'a node that is missing',
    ({ graph }) => {
      graph.node.splice(3, 1);
    },
  ],
  [
    'another epsilon',
    ({ graph }) => {
      for (const { attribute } of graph.node) for (const entry of attribute) if (entry.name === 'epsilon') entry.f = 1;
    },
  ],
];
test.each(damage)('a file with %s is not left behind', async (_, spoil) => {
  const { encodeOnnx } = await vi.importActual<typeof format>('../../lib/onnx/format.js');
  vi.mocked(format.encodeOnnx).mockImplementation((model) => {
    const copy = structuredClone(model);
    spoil(copy);
    return encodeOnnx(copy);
  });
  await expect(exportStudent({ from, to: at('spoilt.onnx'), format: 'onnx', fold: false })).rejects.toMatchObject({
    code: 'EXPORT_FAILED',
  });
  expect(existsSync(at('spoilt.onnx'))).toBe(false);
  expect(readdirSync(folder).filter((name) => /\.(?:part|tmp)$/u.test(name))).toEqual([]);
});

test('what does not go together is said', async () => {
  const to = at('none.onnx');
  await expect(exportStudent({ from, to, format: 'onnx', head: 'drop', classifier: true })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'classifier',
  });
  await madeUpBank(8).save(at('small.safetensors'));
  await expect(exportStudent({ from, to, format: 'onnx', classifier: at('small.safetensors') })).rejects.toMatchObject({
    code: 'BAD_BANK',
    option: 'classifier',
  });
  await exportStudent({ from, to: at('headless.safetensors'), head: 'drop' });
  await expect(exportStudent({ from: at('headless.safetensors'), to, format: 'onnx' })).rejects.toMatchObject({
    code: 'BAD_MODEL',
  });
  await expect(exportStudent({ from, to, format: 'onnx', images: at('nowhere') })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
  expect(existsSync(to)).toBe(false);
});
