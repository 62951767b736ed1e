import { describe, expect, it } from 'vitest';
import { CompiledEncoder, Encoder, GraphBuilder, initialWeights, type Value } from '../../lib/models/index.js';
import { devicesUnderTest } from '../devices.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { randomNormal } from '../fixtures/random.js';

const devices = await devicesUnderTest('rotary positions');

/** Of 16 patches behind two tokens: queries, keys and values, these turned, and what `made` makes of both. */
function graphOf(made: (g: GraphBuilder, qkv: Value, turned: Value) => Value, { turns = true } = {}) {
  const g = new GraphBuilder('turned');
  const x = g.conv(g.images, 'patches', { channels: 32, kernel: 4, stride: 4, padding: 0, bias: true });
  const qkv = g.linear(g.positions(x, 'positions', { count: 18, first: 2 }), 'qkv', { features: 96 });
  const turned = turns ? g.rotary(qkv, 'angles', { heads: 2, count: 16, first: 2 }) : qkv;
  return g.finish(g.globalPool(made(g, qkv, turned)));
}

describe.each(devices)('on $name', ({ device }) => {
  const compile = (graph: ReturnType<typeof graphOf>) =>
    new CompiledEncoder(device, graph, { batch: 2, resolution: 16, precision: 'float32', training: false });

  async function meanOf(graph: ReturnType<typeof graphOf>): Promise<Float32Array> {
    const compiled = compile(graph);
    const weights = initialWeights(graph, 5);
    const angles = weights['angles'];
    if (angles !== undefined) weights['angles'] = { shape: angles.shape, data: randomNormal(angles.data.length, 6) };
    compiled.load(weights);
    using encoder = new Encoder(compiled);
    return encoder.forward(randomNormal(2 * 3 * 16 * 16, 7));
  }

  it('turns a value where it lies if nothing reads it later, and else beside it', async () => {
    const [plain, turned] = [
      await meanOf(graphOf((_, qkv) => qkv, { turns: false })),
      await meanOf(graphOf((_, __, y) => y)),
    ];
    const expected = plain.map((value, i) => value + turned[i]!);
    expect(relativeError(turned, plain)).toBeGreaterThan(0.1);
    for (const made of [
      (g: GraphBuilder, qkv: Value, y: Value) => g.add(qkv, y),
      (g: GraphBuilder, qkv: Value, y: Value) => g.add(y, qkv),
    ])
      expect(relativeError(await meanOf(graphOf(made)), expected)).toBeLessThan(1e-5);
  });

  it('takes no memory for what it turns where it lies', () => {
    const bytesOf = (graph: ReturnType<typeof graphOf>) => {
      using encoder = compile(graph);
      return encoder.info.arenaBytes;
    };
    const plain = bytesOf(graphOf((_, qkv) => qkv, { turns: false }));
    expect(bytesOf(graphOf((_, __, y) => y))).toBe(plain);
    expect(bytesOf(graphOf((g, qkv, y) => g.add(qkv, y)))).toBeGreaterThan(plain);
  });

  it('turns what was turned, with the same table', async () => {
    const again = (g: GraphBuilder, y: Value) => g.rotary(y, 'angles', { heads: 2, count: 16, first: 2 });
    const [once, twice, both] = [
      await meanOf(graphOf((_, __, y) => y)),
      await meanOf(graphOf((g, _, y) => again(g, y))),
      await meanOf(graphOf((g, _, y) => g.add(again(g, y), y))),
    ];
    expect(
      relativeError(
        both,
        once.map((value, i) => value + twice[i]!),
      ),
    ).toBeLessThan(1e-5);
  });

  it.each(['rotary', 'swiglu'] as const)('refuses to train through %s', (op) => {
    const graph = graphOf((g, qkv, turned) => (op === 'rotary' ? turned : g.swiglu(qkv)), { turns: op === 'rotary' });
    expect(() => new CompiledEncoder(device, graph, { batch: 2, resolution: 16, training: true })).toThrowError(
      /has no backward/u,
    );
  });

  it.each([
    ['as many tokens as there are', { heads: 2, count: 15, first: 2 }, 'angles'],
    ['heads that divide the channels', { heads: 5, count: 16, first: 2 }, 'angles has no such shape'],
    ['tokens behind the first ones', { heads: 2, count: 1, first: 18 }, 'tokens behind 18'],
  ])('needs %s', (_, options, part) => {
    const g = new GraphBuilder('network');
    const x = g.conv(g.images, 'patches', { channels: 96, kernel: 4, stride: 4, padding: 0 });
    const tokens = g.positions(x, 'positions', { count: 18, first: 2 });
    const made = () => compile(g.finish(g.globalPool(g.rotary(tokens, 'angles', options))));
    expect(made).toThrowError(new RegExp(part, 'u'));
  });
});
