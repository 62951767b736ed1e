import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { CompiledEncoder, GraphBuilder } from '../../lib/models/index.js';
import { initialWeights } from '../../lib/models/initialise.js';
import { createStudent, kindOf, Student } from '../../lib/models/student.js';
import type { WeightRecord } from '../../lib/models/weights.js';
import { NativeTeacher } from '../../lib/models/teachers/native.js';
import { resamplePositions } from '../../lib/models/teachers/position-grid.js';
import { readStudent, studentOf, writeStudent, type StudentInfo } from '../../lib/runs/student-file.js';
import { loadStartWeights } from '../../lib/train/start-weights.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { madeUpStudent, writeMadeUpStudent } from '../fixtures/student.js';

const name = 'vit_tiny_patch16_224';
const width = 192;
const folder = temporaryFolder();
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

/** The table of a student of 64 px, interpolated to another grid: the class token's row stays. */
function interpolated(table: Float32Array, grid: number): Float32Array {
  const patches = resamplePositions(table.subarray(width), { width, from: 4, to: grid, antialias: true });
  return Float32Array.from([...table.subarray(0, width), ...patches]);
}

/** By their bits: to compare millions of numbers by toEqual takes a minute. */
function expectSame(found: WeightRecord, expected: WeightRecord): void {
  expect(Object.keys(found).sort()).toEqual(Object.keys(expected).sort());
  const bytesOf = ({ data }: { data: Float32Array }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  for (const [parameter, { shape, data }] of Object.entries(expected)) {
    expect(found[parameter]!.shape, parameter).toEqual(shape);
    expect(bytesOf(found[parameter]!).equals(bytesOf({ data })), parameter).toBe(true);
  }
}

describe('positions for another size of images', () => {
  it('are interpolated where training starts from them, which is said', async () => {
    const file = join(folder, 'start.safetensors');
    const { weights } = await writeMadeUpStudent(file, name);
    for (const [resolution, grid] of [
      [96, 6],
      [32, 2],
    ] as const) {
      const student = createStudent(name, { device, embeddingSize: 24, resolution });
      expect(await loadStartWeights(student, file)).toEqual([
        `pos_embed was interpolated from 4x4 to ${grid}x${grid} patches`,
      ]);
      const table = { shape: [1, 1 + grid * grid, width], data: interpolated(weights['pos_embed']!.data, grid) };
      expectSame(student.weights, { ...weights, pos_embed: table });
    }
    const same = createStudent(name, { device, embeddingSize: 24, resolution: 64 });
    expect(await loadStartWeights(same, file)).toEqual([]);
    expectSame(same.weights, weights);
  });

  it("of timm's own weights too, whose classifier is left out", async () => {
    const { weights } = madeUpStudent(name);
    const file = join(folder, 'timm.safetensors');
    const classifier = {
      'head.weight': { shape: [1000, width], data: new Float32Array(1000 * width) },
      'head.bias': { shape: [1000], data: new Float32Array(1000) },
    };
    const backbone = Object.entries(weights).filter(([parameter]) => !parameter.startsWith('head.'));
    await writeSafetensors(file, [...backbone, ...Object.entries(classifier)], {});
    const student = createStudent(name, { device, embeddingSize: 24, resolution: 96, seed: 5 });
    const seeded = student.weights['head.0.weight']!;
    expect(await loadStartWeights(student, file)).toHaveLength(1);
    const parts = (record: WeightRecord) =>
      Object.fromEntries(['blocks.3.attn.qkv.weight', 'head.0.weight'].map((part) => [part, record[part]!]));
    expectSame(parts(student.weights), { ...parts(weights), 'head.0.weight': seeded });
  });

  it('are interpolated of a student as teacher at a resolution of its own', async () => {
    const file = join(folder, 'teacher.safetensors');
    const { info, weights } = await writeMadeUpStudent(file, name);
    const teacher = await NativeTeacher.loadStudent('t', file, { device, resolution: 96, batch: 2 });
    const pixels = randomNormal(2 * 3 * 96 * 96, 4);
    const found = await teacher.embed(pixels, 2);
    const table = { shape: [1, 37, width], data: interpolated(weights['pos_embed']!.data, 6) };
    const fitted = studentOf({ info: { ...info, resolution: 96 }, weights: { ...weights, pos_embed: table } }, device);
    using compiled = fitted.compile({ batch: 2, resolution: 96, training: false });
    const images = compiled.makeImages();
    device.addon.writeImages(images, pixels);
    compiled.forwardTensor(images, {});
    expect(found).toEqual(await device.addon.readTensor(compiled.output));
    device.addon.release(images);
    await teacher.dispose();
    expect((await readSafetensors(file)).tensors.get('pos_embed')!.shape).toEqual([1, 17, width]);
  });

  it("are refused another size where a network of one's own, which has them for one, is the teacher", async () => {
    const g = new GraphBuilder('own');
    const patches = g.conv(g.images, 'conv', { channels: 8, kernel: 16, stride: 16, padding: 0 });
    const first = g.firstToken(g.positions(patches, 'pos', { count: 17, first: 1 }));
    const graph = g.finish(g.linear(first, 'embedding', { features: 24 }));
    const file = join(folder, 'own.safetensors');
    const { info } = madeUpStudent(name);
    await writeStudent(file, { ...info, architecture: 'own', graph }, initialWeights(graph, 3));
    const options = { device, batch: 1 };
    await (await NativeTeacher.loadStudent('own', file, options)).dispose();
    await expect(NativeTeacher.loadStudent('own', file, { ...options, resolution: 96 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'resolution',
      found: 96,
      allowed: '64',
    });
  });

  it.each([64, 230])('are asked for where a student is compiled for images of %i px', (resolution) => {
    const student = createStudent(name, { device, embeddingSize: 24 });
    expect(() => student.compile({ batch: 2, resolution })).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'resolution', found: resolution, allowed: '224' }),
    );
  });

  it.each([
    { padding: 0, count: 9, fits: [32, 39], others: [31, 40], allowed: '32' },
    { padding: 4, count: 16, fits: [32, 39], others: [31, 40], allowed: '32' },
    { padding: 'same' as const, count: 16, fits: [25, 32], others: [24, 33], allowed: '25' },
  ])("are counted as the convolution of a network of one's own makes them: %o", (own) => {
    const g = new GraphBuilder('own');
    const overlapping = g.conv(g.images, 'conv', { channels: 8, kernel: 16, stride: 8, padding: own.padding });
    const sum = g.globalPool(g.positions(overlapping, 'pos', { count: own.count }));
    const student = new Student('own', device, 24, 1, g.finish(g.linear(sum, 'embedding', { features: 24 })), 0);
    for (const resolution of own.fits) student.compile({ batch: 1, resolution, training: false }).dispose();
    for (const resolution of own.others)
      expect(() => student.compile({ batch: 1, resolution })).toThrow(
        expect.objectContaining({ code: 'BAD_OPTION', found: resolution, allowed: own.allowed }),
      );
  });

  it("do not keep a network of one's own from a file under the name of a known one", () => {
    const { graph } = createStudent(name, { device, embeddingSize: 24, resolution: 32 });
    const own = { ...graph, nodes: graph.nodes.map((node) => ({ ...node })) };
    own.nodes[0]!.attributes = { ...own.nodes[0]!.attributes, padding: 4 };
    expect(kindOf(new Student(name, device, 24, 1, own, 0), 24)).toMatchObject({ resolution: 24, graph: own });
  });
});

it('constant tokens are at least one', () => {
  const g = new GraphBuilder('own');
  const patches = g.conv(g.images, 'conv', { channels: 8, kernel: 4, stride: 4, padding: 0 });
  expect(() => g.positions(patches, 'pos', { count: 4, constant: 'token' })).toThrow(
    expect.objectContaining({ code: 'BAD_MODEL', message: expect.stringContaining('token') as string }),
  );
});

it.each([4, 5, -1, 0.5])('of %d tokens that are no patches a table of 4 rows is refused', (first) => {
  const g = new GraphBuilder('own');
  const patches = g.conv(g.images, 'conv', { channels: 8, kernel: 4, stride: 4, padding: 0 });
  expect(() => g.positions(patches, 'pos', { count: 4, first })).toThrow(
    expect.objectContaining({
      code: 'BAD_OPTION',
      option: 'first',
      found: first,
      allowed: 'a whole number from 0 to 3',
    }),
  );
});

describe("a student's file that contradicts itself is BAD_MODEL, and names the file", () => {
  const own = (first: number) => {
    const g = new GraphBuilder('own');
    const patches = g.conv(g.images, 'conv', { channels: 8, kernel: 16, stride: 16, padding: 0 });
    const graph = g.finish(
      g.linear(g.firstToken(g.positions(patches, 'pos', { count: 17, first: 1 })), 'embedding', { features: 24 }),
    );
    graph.nodes.find(({ op }) => op === 'positions')!.attributes = { first };
    return graph;
  };
  it.each<[string, Partial<StudentInfo>, string]>([
    ['a side that is no multiple of the patch', { resolution: 70 }, 'multiples of 16'],
    ['a side without positions', { architecture: 'own', graph: own(1), resolution: 96 }, 'Allowed: 64'],
    ['an unknown student', { architecture: 'resnet81' }, 'resnet81'],
    ['a width that it has not', { widthMultiplier: 0.5 }, 'no width multiplier'],
  ])('%s', async (_, changed, words) => {
    const file = join(folder, 'contradicting.safetensors');
    const { info, weights } = madeUpStudent(name);
    await writeStudent(file, { ...info, ...changed }, weights);
    const message = expect.toSatisfy((text: string) => text.includes(file) && text.includes(words)) as string;
    await expect(readStudent(file)).rejects.toMatchObject({ code: 'BAD_MODEL', message });
    await expect(NativeTeacher.loadStudent('one', file, { device })).rejects.toMatchObject({ code: 'BAD_MODEL' });
  });

  it('with more constant tokens than the table has rows, by the engine', () => {
    const graph = own(18);
    const student = new Student('own', device, 24, 1, graph, 0);
    expect(() => student.compile({ batch: 1, resolution: 64 })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE', message: expect.stringContaining('pos') as string }),
    );
  });
});

const gpus = (await devicesUnderTest('limits of attention')).filter(({ name }) => name !== 'cpu');

describe.each(gpus)('attention on $name', ({ device: gpu }) => {
  /** Attention over the pixels of an image, by one head of so many channels. */
  const attend = (channels: number, resolution: number, training: boolean) => {
    const g = new GraphBuilder('own');
    const tokens = g.positions(g.conv(g.images, 'conv', { channels }), 'positions', { count: resolution ** 2 });
    const graph = g.finish(g.globalPool(g.selfAttention(g.linear(tokens, 'qkv', { features: 3 * channels }), 1)));
    new CompiledEncoder(gpu, graph, { batch: 1, resolution, training, precision: 'float32' }).dispose();
  };
  it.each([
    [72, 4, 'a head is 72 channels wide. Allowed in training on this device: 64 or fewer'],
    [8, 57, 'a sequence of 3249 tokens. Allowed in training in float32 on this device: 3168 or fewer'],
  ])('of %i channels and %i px trains only within its limits, said when the graph is compiled', (...of) => {
    const [channels, resolution, message] = of;
    attend(channels, resolution, false);
    expect(() => attend(channels, resolution, true)).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE', message: expect.stringContaining(message) as string }),
    );
    attend(64, 56, true);
  });
});
