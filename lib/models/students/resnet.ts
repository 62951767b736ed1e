/**
 * ResNet-18, ResNet-34 and ResNet-50: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016,
 * table 1. ResNet-50 halves the size in its 3 x 3 convolutions, as torchvision's does.
 */
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

/** Channels of the four stages; all but the first halve the size. */
const stages = [64, 128, 256, 512];

type Block = typeof basicBlock;

export const resnet18: StudentDefinition = define('18', basicBlock, [2, 2, 2, 2]);
export const resnet34: StudentDefinition = define('34', basicBlock, [3, 4, 6, 3]);
export const resnet50: StudentDefinition = define('50', bottleneck, [3, 4, 6, 3]);

function define(depth: string, kind: Block, blocks: number[]): StudentDefinition {
  const name = `resnet${depth}`;
  return {
    name,
    family: 'resnet',
    variant: depth,
    blocks,
    classifier: 'fc',
    scalable: false,
    build: (options) => build(name, kind, blocks, options),
  };
}

function build(name: string, addBlock: Block, blocks: number[], { head }: StudentOptions): GraphSpec {
  const g = new GraphBuilder(name);
  const stem = g.relu(g.batchNorm(g.conv(g.images, 'conv1', { channels: 64, kernel: 7, stride: 2 }), 'bn1'));
  let x = g.maxPool(stem, { kernel: 3, stride: 2, padding: 1 });
  stages.forEach((channels, stage) => {
    for (let block = 0; block < blocks[stage]!; block++) {
      x = addBlock(g, x, `layer${stage + 1}.${block}`, channels, stage > 0 && block === 0 ? 2 : 1);
    }
  });
  const pooled = g.globalPool(x);
  return withHead(g, pooled, head, (outputs) => g.linear(pooled, 'fc', { features: outputs }));
}

function basicBlock(g: GraphBuilder, x: Value, name: string, channels: number, stride: number): Value {
  const first = g.relu(g.batchNorm(g.conv(x, `${name}.conv1`, { channels, kernel: 3, stride }), `${name}.bn1`));
  const second = g.batchNorm(g.conv(first, `${name}.conv2`, { channels, kernel: 3 }), `${name}.bn2`);
  return residual(g, x, name, second, stride);
}

/** Four times `channels` come out. */
function bottleneck(g: GraphBuilder, x: Value, name: string, channels: number, stride: number): Value {
  const first = g.relu(g.batchNorm(g.conv(x, `${name}.conv1`, { channels, kernel: 1 }), `${name}.bn1`));
  const second = g.relu(g.batchNorm(g.conv(first, `${name}.conv2`, { channels, kernel: 3, stride }), `${name}.bn2`));
  const third = g.batchNorm(g.conv(second, `${name}.conv3`, { channels: 4 * channels, kernel: 1 }), `${name}.bn3`);
  return residual(g, x, name, third, stride);
}

/** A block's input beside its last norm: as it is where it fits, else by a convolution. */
function residual(g: GraphBuilder, x: Value, name: string, last: Value, stride: number): Value {
  const changes = stride !== 1 || x.channels !== last.channels;
  const shortcut = changes ? g.convNorm(x, `${name}.downsample`, { channels: last.channels, stride }) : x;
  return g.relu(g.add(last, shortcut));
}
