/** What encoders refuse: calls that they are not for, and graphs that are none. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { compileBatch, CompiledEncoder } from '../../lib/models/compiled.js';
import { createEncoder } from '../../lib/models/encoder.js';
import { GraphBuilder, type GraphSpec, type Value } from '../../lib/models/graph.js';
import { allOperations } from '../fixtures/all-operations.js';
import { randomUniform } from '../fixtures/random.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => device.dispose());

describe('a batch that an option says', () => {
  const batch = 4;
  it.each<[string, LgdError, object]>([
    [
      'is named where the memory is too small for it',
      new LgdError('OUT_OF_MEMORY', 'cannot allocate 5 MiB'),
      {
        code: 'OUT_OF_MEMORY',
        option: 'some.batch',
        found: batch,
        mend: 'Take a smaller some.batch, or smaller images',
      },
    ],
    [
      'is not named where something else is too large',
      new LgdError('OUT_OF_MEMORY', 'the queue is too large', { option: 'loss.queueSize' }),
      { code: 'OUT_OF_MEMORY', option: 'loss.queueSize' },
    ],
    [
      'is not named for another fault of the shape',
      new LgdError('BAD_SHAPE', 'a: 1048577 channels'),
      { code: 'BAD_SHAPE', option: undefined },
    ],
  ])('%s', (_, thrown, expected) => {
    const compile = () => {
      throw thrown;
    };
    expect(() => compileBatch('some.batch', batch, compile)).toThrow(expect.objectContaining(expected));
  });

  it('is not to be lowered where it is one image', () => {
    const compile = () => {
      throw new LgdError('OUT_OF_MEMORY', 'cannot allocate 9 MiB on the GPU');
    };
    expect(() => compileBatch('some.batch', 1, compile)).toThrow(
      expect.objectContaining({ code: 'OUT_OF_MEMORY', option: 'some.batch', mend: 'Take smaller images' }),
    );
  });

  it('is named where it has more pixels than kernels number', () => {
    const g = new GraphBuilder('large');
    const graph = g.finish(g.globalPool(g.conv(g.images, 'a', { channels: 4, kernel: 3 })));
    const most = 65_535;
    const compile = (size: number) => () => new CompiledEncoder(device, graph, { batch: size, resolution: 224 });
    expect(() => compileBatch('some.batch', most, compile(most))).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE', option: 'some.batch', found: most }),
    );
    // more than a grid of CUDA has blocks on its second and third side
    expect(() => compileBatch('some.batch', most + 1, compile(most + 1))).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', option: 'batch', allowed: 'a whole number from 1 to 65535' }),
    );
  });
});

describe('wrong use', () => {
  const small = { outputs: 4, widthMultiplier: 0.1, resolution: 32, batch: 2 };
  const pixels = randomUniform(2 * 3 * 32 * 32, 8);

  it('of the order of calls', async () => {
    using encoder = await createEncoder('mobilenet_v2', { device, ...small });
    await expect(encoder.backward(new Float32Array(8))).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await encoder.forward(pixels, { training: true });
    await encoder.forward(pixels);
    await expect(encoder.backward(new Float32Array(8))).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await encoder.forward(pixels, { training: true });
    await encoder.backward(new Float32Array(8));
    await expect(encoder.backward(new Float32Array(8))).rejects.toMatchObject({ code: 'BAD_OPTION' });
  });

  it('of a forward-only encoder', async () => {
    using encoder = await createEncoder('mobilenet_v2', { device, ...small, training: false });
    await expect(encoder.forward(pixels, { training: true })).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(encoder.backward(new Float32Array(8))).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(encoder.optimizerStep({ learningRate: 1 })).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await expect(encoder.optimizerState()).rejects.toMatchObject({ code: 'BAD_OPTION' });
  });

  it('of sizes', async () => {
    using encoder = await createEncoder('mobilenet_v2', { device, ...small });
    await expect(encoder.forward(new Float32Array(7))).rejects.toMatchObject({ code: 'BAD_SHAPE', option: 'images' });
    await expect(encoder.forward(pixels.subarray(3 * 32 * 32), { training: true })).rejects.toMatchObject({
      code: 'BAD_SHAPE',
    });
    await encoder.forward(pixels, { training: true });
    await expect(encoder.backward(new Float32Array(7))).rejects.toMatchObject({ code: 'BAD_SHAPE' });
  });

  it.each([
    ['batch', 0],
    ['batch', 1.5],
    ['batch', 65_536],
    ['resolution', -3],
    ['precision', 'float16'],
    ['seed', -1],
  ])('of %s %s', async (option, value) => {
    await expect(createEncoder('resnet18', { device, outputs: 3, [option]: value })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option,
    });
  });

  it('of a signal that has fired', async () => {
    using encoder = await createEncoder('mobilenet_v2', { device, ...small });
    await expect(encoder.forward(pixels, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('after disposal', async () => {
    const encoder = await createEncoder('mobilenet_v2', { device, ...small });
    const before = device.info.allocatedBytes;
    encoder.dispose();
    encoder.dispose();
    await device.synchronize();
    expect(device.info.allocatedBytes).toBeLessThan(before);
    await expect(encoder.forward(pixels)).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('graphs that do not fit', () => {
  type Change = (graph: GraphSpec) => void;
  const refused = (change: Change, training = true) => {
    const graph = JSON.parse(JSON.stringify(allOperations())) as GraphSpec;
    change(graph);
    try {
      new CompiledEncoder(device, graph, { batch: 4, resolution: 24, training }).dispose();
    } catch (error) {
      return error as { code: string; message: string };
    }
    throw new Error('the graph was taken');
  };
  const node = (graph: GraphSpec, name: string) => graph.nodes.find((entry) => entry.name === name)!;

  it.each<[string, Change, string, string]>([
    [
      'an unknown operation',
      (g) => (node(g, 'wide').op = 'convolve'),
      'BAD_MODEL',
      'wide has the unknown operation "convolve"',
    ],
    [
      'an unknown attribute',
      (g) => (node(g, 'wide').attributes!['strides'] = 2),
      'BAD_MODEL',
      'wide (conv) has the unknown attribute "strides"',
    ],
    [
      'two kinds of padding',
      (g) => (node(g, 'wide').attributes!['same'] = 1),
      'BAD_MODEL',
      'wide (conv): padding is 1. Allowed: 0 beside "same"',
    ],
    ['half a stride', (g) => (node(g, 'wide').attributes!['stride'] = 1.5), 'BAD_MODEL', 'stride is 1.5'],
    [
      'a window wider than a max-pool takes',
      (g) => (g.nodes.find(({ op }) => op === 'maxPool')!.attributes!['kernel'] = 9),
      'BAD_MODEL',
      'kernel is 9. Allowed: a whole number from 1 to 8',
    ],
    ['an unknown activation', (g) => (node(g, 'stem_norm.relu6').attributes!['kind'] = 'relu7'), 'BAD_MODEL', 'relu7'],
    ['no activation', (g) => delete node(g, 'stem_norm.relu6').attributes!['kind'], 'BAD_MODEL', 'kind'],
    ['a value from the future', (g) => (node(g, 'stem').inputs = [9]), 'BAD_MODEL', 'stem reads value 9'],
    ['a value beyond 32 bits', (g) => (node(g, 'stem').inputs = [2 ** 32]), 'BAD_MODEL', 'stem reads value 2147483647'],
    ['an output beyond 32 bits', (g) => (g.output = 2 ** 32 + g.output), 'BAD_MODEL', '2147483647'],
    ['nodes that are no list', (g) => (g.nodes = {} as never), 'BAD_MODEL', 'nodes: expected an array'],
    [
      'parameters that are no list',
      (g) => (node(g, 'stem').parameters = 'stem' as never),
      'BAD_MODEL',
      'parameters: expected an array',
    ],
    [
      'attributes that are no object',
      (g) => (node(g, 'stem').attributes = 1 as never),
      'BAD_MODEL',
      'attributes: expected an object',
    ],
    ['a missing input', (g) => node(g, 'wide_norm.add').inputs.pop(), 'BAD_MODEL', 'has 1 inputs'],
    [
      'a missing parameter',
      (g) => node(g, 'wide_norm').parameters!.pop(),
      'BAD_MODEL',
      'wide_norm (batchNorm) has 3 parameters',
    ],
    ['a parameter that is not there', (g) => (node(g, 'wide').parameters = ['nothing']), 'BAD_MODEL', 'nothing'],
    [
      'a parameter that nobody uses',
      (g) => g.parameters.push({ ...g.parameters[0]!, name: 'spare' }),
      'BAD_MODEL',
      'spare',
    ],
    ['a node that nobody uses', (g) => (g.output = 1), 'BAD_MODEL', 'nothing uses'],
    ['an output that is not there', (g) => (g.further = [99]), 'BAD_MODEL', 'the output is value 99'],
    ['an output given twice', (g) => (g.further = [g.output]), 'BAD_MODEL', 'twice'],
    [
      'a weight of other channels',
      (g) => (g.parameters.find(({ name }) => name === 'wide.weight')!.shape[1] = 13),
      'BAD_SHAPE',
      'wide.weight has the shape [20,13,3,3]. Allowed: [20,12,3,3]',
    ],
    [
      'a vector of other length',
      (g) => (g.parameters.find(({ name }) => name === 'wide_norm.bias')!.shape = [21]),
      'BAD_SHAPE',
      'wide_norm.bias',
    ],
    ['grouped convolution', (g) => (node(g, 'wide').attributes!['groups'] = 4), 'BAD_SHAPE', '4 groups'],
    [
      'an addition of two sizes',
      (g) => (node(g, 'down').attributes!['stride'] = 2),
      'BAD_SHAPE',
      'wide_norm.add adds 6x6 with 20 channels and 3x3',
    ],
    [
      'statistics to be trained',
      (g) => (g.parameters.find(({ name }) => name === 'wide_norm.running_var')!.trainable = true),
      'BAD_MODEL',
      'wide_norm.running_var',
    ],
    [
      'weights as a buffer',
      (g) => (g.parameters.find(({ name }) => name === 'wide.weight')!.trainable = false),
      'BAD_MODEL',
      'wide.weight',
    ],
  ])('%s', (_, change, code, message) => {
    const error = refused(change);
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  it('images smaller than a window, and one value a channel in training', () => {
    const g = new GraphBuilder('window');
    const spec = g.finish(
      g.globalPool(g.batchNorm(g.conv(g.images, 'a', { channels: 4, kernel: 7, padding: 0 }), 'n')),
    );
    expect(() => new CompiledEncoder(device, spec, { batch: 1, resolution: 6 })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    expect(() => new CompiledEncoder(device, spec, { batch: 1, resolution: 7 })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
    new CompiledEncoder(device, spec, { batch: 1, resolution: 7, training: false }).dispose();
    new CompiledEncoder(device, spec, { batch: 2, resolution: 7 }).dispose();
  });

  it('images whose rows are padded in another way than their columns', () => {
    const g = new GraphBuilder('padded');
    const spec = g.finish(g.globalPool(g.conv(g.images, 'a', { channels: 4, kernel: 3, stride: 2, padding: 'same' })));
    const sized = (resolution: number, width: number) =>
      new CompiledEncoder(device, spec, { batch: 1, resolution, width, training: false });
    for (const [height, width] of [
      [8, 9],
      [9, 8],
    ] as const)
      expect(() => sized(height, width)).toThrow(
        expect.objectContaining({
          code: 'BAD_SHAPE',
          message: expect.stringContaining(
            `pads ${height}x${width} with 3 channels by other numbers of rows`,
          ) as string,
        }),
      );
    sized(8, 10).dispose();
    sized(9, 7).dispose();
  });

  // What kernels would number in 32 bits, before there is memory for any of it.
  it.each<[string, (g: GraphBuilder) => Value, { batch: number; resolution: number }, string]>([
    [
      'a batch of too many pixels',
      (g) => g.conv(g.images, 'a', { channels: 4, kernel: 3 }),
      { batch: 65_535, resolution: 224 },
      'large, its input: a batch of 65535 images has more than 2147418112 pixels in all of 224x224 with 3 channels',
    ],
    [
      'a layer of too many pixels',
      (g) => g.resize(g.conv(g.images, 'a', { channels: 4, kernel: 3 }), 8),
      { batch: 1000, resolution: 512 },
      'pixels in all of 4096x4096 with 4 channels. Use a smaller batch or smaller images',
    ],
    [
      'an image of too long sides',
      (g) => g.resize(g.resize(g.conv(g.images, 'a', { channels: 4, kernel: 3 }), 64), 64),
      { batch: 1, resolution: 224 },
      'a side of 917504 pixels',
    ],
    [
      'too many channels',
      (g) => g.conv(g.images, 'a', { channels: 2 ** 20 + 1, kernel: 1 }),
      { batch: 1, resolution: 32 },
      'a: 1048577 channels. Allowed: 1048576 or fewer',
    ],
    [
      'too many weights',
      (g) => g.linear(g.globalPool(g.conv(g.images, 'a', { channels: 2 ** 20, kernel: 1 })), 'b', { features: 2048 }),
      { batch: 1, resolution: 32 },
      'b: parameter b.weight of [2048,1048576] is too large',
    ],
    [
      'a window of 2^31 pixels',
      (g) => g.conv(g.images, 'a', { channels: 4, kernel: 32_769, dilation: 65_536, padding: 0 }),
      { batch: 1, resolution: 32 },
      'its window of 2147483649 pixels does not fit',
    ],
  ])('%s', (_, build, { batch, resolution }, message) => {
    const g = new GraphBuilder('large');
    const spec = g.finish(build(g));
    expect(() => new CompiledEncoder(device, spec, { batch, resolution, training: false })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE', message: expect.stringContaining(message) as string }),
    );
  });
});
