/**
 * EfficientNet-Lite0: EfficientNet B0 (Tan and Le, ICML 2019) without squeeze and excitation and with ReLU6, for
 * accelerators and 8-bit integers (TensorFlow's models/official/efficientnet/lite). torchvision has none: names and
 * start values are timm's, dropout and stochastic depth those of the original training.
 */
import { GraphBuilder, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';
import { stages, stochasticDepth, type Stage } from './efficientnet.js';
import { classifier, convNorm } from './timm.js';

const name = 'efficientnet_lite0';

export const efficientnetLite0: StudentDefinition = {
  name,
  family: 'efficientnet_lite',
  variant: '0',
  blocks: stages.map(({ layers }) => layers),
  classifier: 'classifier',
  scalable: false,
  build,
};

function build({ head, dropping }: StudentOptions): GraphSpec {
  const g = new GraphBuilder(name, { dropping });
  const all = stages.reduce((sum, { layers }) => sum + layers, 0);
  let x = convNorm(g, g.images, ['conv_stem', 'bn1'], { channels: 32, kernel: 3, stride: 2 }, 'relu6');
  let done = 0;
  stages.forEach((stage, i) => {
    for (let layer = 0; layer < stage.layers; layer++, done++) {
      const here = { ...stage, stride: layer === 0 ? stage.stride : 1 };
      x = invertedResidual(g, x, `blocks.${i}.${layer}`, here, (stochasticDepth * done) / all);
    }
  });
  const features = g.globalPool(convNorm(g, x, ['conv_head', 'bn2'], { channels: 1280 }, 'relu6'));
  return withHead(g, features, head, (outputs) => classifier(g, g.dropout(features, 0.2), outputs));
}

/** timm calls the first block's projection `conv_pw`, which elsewhere is what expands. */
function invertedResidual(
  g: GraphBuilder,
  x: Value,
  at: string,
  { expansion, kernel, stride, channels }: Stage,
  dropProbability: number,
): Value {
  const expanded = expansion * x.channels;
  const expands = expansion !== 1;
  const names = (conv: string, norm: string) => [`${at}.${conv}`, `${at}.${norm}`] as [string, string];
  let y = x;
  if (expands) y = convNorm(g, y, names('conv_pw', 'bn1'), { channels: expanded }, 'relu6');
  const options = { channels: expanded, kernel, stride, groups: expanded };
  y = convNorm(g, y, names('conv_dw', expands ? 'bn2' : 'bn1'), options, 'relu6');
  y = convNorm(g, y, expands ? names('conv_pwl', 'bn3') : names('conv_pw', 'bn2'), { channels });
  return stride === 1 && x.channels === channels ? g.add(g.stochasticDepth(y, dropProbability), x) : y;
}
