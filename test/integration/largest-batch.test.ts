/**
 * The most images that a batch may have, in what counts them on the second or third side of a grid. The emulated GPU
 * checks the launches as CUDA does, and runs none of them.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { readViews } from '../../lib/data/views.js';
import { openDevice, type Device } from '../../lib/device.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { GraphBuilder, type GraphSpec, type Value } from '../../lib/models/graph.js';
import { mostImages } from '../../lib/number-limits.js';
import { isWanted } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { plainPicture } from '../fixtures/tiny.js';
import { buildEmulatedAddon } from '../native/emulated.js';

function selfAttention(): GraphSpec {
  const g = new GraphBuilder('self_attention');
  const patches = g.conv(g.images, 'patch', { channels: 8, kernel: 4, stride: 4, padding: 0 });
  const x = g.positions(patches, 'positions', { count: 5, first: 1, constant: 'class' });
  return g.finish(g.firstToken(g.selfAttention(g.linear(x, 'qkv', { features: 24 }), 1)));
}

function attentionPool(): GraphSpec {
  const g = new GraphBuilder('attention_pool');
  const patches = g.conv(g.images, 'patch', { channels: 8, kernel: 4, stride: 4, padding: 0 });
  const tokens = g.tokens(patches, 'positions', 4);
  const linear = (x: Value, name: string) => g.linear(x, name, { features: 8 });
  return g.finish(g.queryAttention(linear(g.firstToken(tokens), 'q'), linear(tokens, 'k'), linear(tokens, 'v'), 1));
}

describe.skipIf(!isWanted('cuda-emulated', 'the largest batch'))('the largest batch, not run', () => {
  let device: Device;
  beforeAll(async () => {
    buildEmulatedAddon();
    process.env['LGDISTILL_EMULATION_ORDER'] = 'none';
    device = await openDevice('cuda-emulated');
  }, 900_000);
  afterAll(() => device.dispose());

  it.each([
    ['self-attention', 'float32', selfAttention(), true],
    ['self-attention', 'bfloat16', selfAttention(), true],
    ['attention pooling', 'float32', attentionPool(), false],
    ['attention pooling', 'bfloat16', attentionPool(), false],
  ] as const)('of %s in %s', async (_, precision, graph, training) => {
    using encoder = new CompiledEncoder(device, graph, { batch: mostImages, resolution: 8, precision, training });
    encoder.forwardTensor(encoder.makeImages(), { training });
    if (training) encoder.backwardTensor(device.addon.makeTensor(device.handle, [mostImages, 8]));
    await device.synchronize();
  });

  it('of views, and one image more', async () => {
    const source = imagesFromBuffers([{ id: 'one', bytes: await plainPicture('#345', 8) }]);
    const images = await ImageCache.build(source, { device, resolution: 4, spillFolder: temporaryFolder() });
    const read = async (count: number) => {
      const drawIds = Int32Array.from({ length: count }, (_, i) => i);
      const batch = { images: new Int32Array(count), drawIds, seed: 1, epoch: 0 };
      const recipe = { mean: [0, 0, 0], std: [1, 1, 1], augment: { blurProbability: 1 } } as const;
      return readViews(images, batch, { device, resolution: 4, ...recipe });
    };
    expect(await read(mostImages)).toHaveLength(mostImages * 3 * 4 * 4);
    await expect(read(mostImages + 1)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'batch.images.length',
      found: mostImages + 1,
    });
    images.dispose();
  });
});
