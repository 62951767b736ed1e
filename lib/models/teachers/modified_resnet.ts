/**
 * CLIP's ModifiedResNet image tower: Radford et al., "Learning transferable visual models from natural language
 * supervision", ICML 2021, section 2.4: a stem of three convolutions, average pooling before strided convolutions,
 * attention pooling at the end. Parameters have OpenAI's names without the prefix `visual.`.
 */
import { checkGiven } from '../../arguments.js';
import { LgdError } from '../../errors.js';
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';

/** Sizes of CLIP's ModifiedResNet. */
export interface ModifiedResNetConfig {
  /** Blocks of the four stages: [3,4,6,3] for RN50. */
  layers: number[];
  /** Channels of the first stage: 64 for RN50; the last stage has 32 times as many. */
  width: number;
  /** Heads of the attention pool: 32 for RN50. */
  heads: number;
  /** D. */
  outputDim: number;
  /** Side of the square input in pixels, a multiple of 32. */
  imageSize: number;
}

/** Output channels of a bottleneck over its inner ones. */
const expansion = 4;

/** The tower as a forward-only graph. @throws LgdError BAD_OPTION, BAD_MODEL for sizes that do not fit together */
export function modifiedResNet(config: ModifiedResNetConfig): GraphSpec {
  checkGiven(config, 'modifiedResNet()', 'layers, width, heads, outputDim, imageSize');
  const { layers, width, heads, outputDim, imageSize } = config;
  const channels = 32 * width;
  const sizes = [...(Array.isArray(layers) ? layers : []), width, heads, outputDim, imageSize];
  if (
    sizes.length !== 8 ||
    !sizes.every((size) => Number.isInteger(size) && size > 0) ||
    width % 2 !== 0 ||
    channels % heads !== 0 ||
    imageSize % 32 !== 0
  ) {
    throw new LgdError('BAD_MODEL', 'these sizes make no ModifiedResNet.', {
      found: { layers, width, heads, outputDim, imageSize },
      allowed:
        'four layer counts, an even width, heads that divide 32 times the width, an image size that is a multiple of 32',
      mend: "Check the model's config.json",
    });
  }
  const g = new GraphBuilder('teacher');
  const unit = (x: Value, conv: string, norm: string, out: number, stride = 1) =>
    g.relu(g.batchNorm(g.conv(x, conv, { channels: out, kernel: 3, stride }), norm));
  let x = unit(g.images, 'conv1', 'bn1', width / 2, 2);
  x = unit(x, 'conv2', 'bn2', width / 2);
  x = g.avgPool(unit(x, 'conv3', 'bn3', width), 2);
  layers.forEach((blocks, stage) => {
    for (let block = 0; block < blocks; block++) {
      x = bottleneck(g, x, `layer${stage + 1}.${block}`, width * 2 ** stage, stage > 0 && block === 0 ? 2 : 1);
    }
  });
  return g.finish(attentionPool(g, x, heads, outputDim, (imageSize / 32) ** 2));
}

function bottleneck(g: GraphBuilder, x: Value, name: string, inner: number, stride: number): Value {
  const out = inner * expansion;
  let y = g.relu(g.batchNorm(g.conv(x, `${name}.conv1`, { channels: inner }), `${name}.bn1`));
  y = g.relu(g.batchNorm(g.conv(y, `${name}.conv2`, { channels: inner, kernel: 3 }), `${name}.bn2`));
  if (stride > 1) y = g.avgPool(y, stride);
  y = g.batchNorm(g.conv(y, `${name}.conv3`, { channels: out }), `${name}.bn3`);
  const changes = stride > 1 || x.channels !== out;
  const shortcut = changes
    ? g.convNorm(stride > 1 ? g.avgPool(x, stride) : x, `${name}.downsample`, { channels: out })
    : x;
  return g.relu(g.add(y, shortcut));
}

/** Attention over the mean and all positions; the mean's token alone is asked for, so it is the only query. */
function attentionPool(g: GraphBuilder, x: Value, heads: number, outputDim: number, positions: number): Value {
  const tokens = g.tokens(x, 'attnpool.positional_embedding', positions);
  const features = x.channels;
  const q = g.linear(g.firstToken(tokens), 'attnpool.q_proj', { features });
  const k = g.linear(tokens, 'attnpool.k_proj', { features });
  const v = g.linear(tokens, 'attnpool.v_proj', { features });
  return g.linear(g.queryAttention(q, k, v, heads), 'attnpool.c_proj', { features: outputDim });
}
