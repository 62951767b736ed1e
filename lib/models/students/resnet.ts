/** ResNet-18 and ResNet-34: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, table 1. */
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

/** Channels of the four stages; all but the first halve the size. */
const stages = [64, 128, 256, 512];

export const resnet18: StudentDefinition = define('resnet18', [2, 2, 2, 2]);
export const resnet34: StudentDefinition = define('resnet34', [3, 4, 6, 3]);

function define(name: string, blocks: number[]): StudentDefinition {
  return { name, scalable: false, build: (options) => build(name, blocks, options) };
}

function build(name: string, blocks: number[], { head }: StudentOptions): GraphSpec {
  const g = new GraphBuilder(name);
  const stem = g.relu(g.batchNorm(g.conv(g.images, 'conv1', { channels: 64, kernel: 7, stride: 2 }), 'bn1'));
  let x = g.maxPool(stem, { kernel: 3, stride: 2, padding: 1 });
  stages.forEach((channels, stage) => {
    for (let block = 0; block < blocks[stage]!; block++) {
      x = basicBlock(g, x, `layer${stage + 1}.${block}`, channels, stage > 0 && block === 0 ? 2 : 1);
    }
  });
  const pooled = g.globalPool(x);
  return withHead(g, pooled, head, (outputs) => g.linear(pooled, 'fc', { features: outputs }));
}

function basicBlock(g: GraphBuilder, x: Value, name: string, channels: number, stride: number): Value {
  const first = g.relu(g.batchNorm(g.conv(x, `${name}.conv1`, { channels, kernel: 3, stride }), `${name}.bn1`));
  const second = g.batchNorm(g.conv(first, `${name}.conv2`, { channels, kernel: 3 }), `${name}.bn2`);
  const changes = stride !== 1 || x.channels !== channels;
  const shortcut = changes ? g.convNorm(x, `${name}.downsample`, { channels, stride }) : x;
  return g.relu(g.add(second, shortcut));
}
