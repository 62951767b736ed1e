/** MobileNetV2: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, table 2. */
import { GraphBuilder, makeDivisible, zeros, type GraphSpec, type Value } from '../graph.js';
import { withHead, type StudentDefinition, type StudentOptions } from './definition.js';

/** Rows of the table: expansion t, channels c, repeats n, stride s of the first. */
const table = [
  { t: 1, c: 16, n: 1, s: 1 },
  { t: 6, c: 24, n: 2, s: 2 },
  { t: 6, c: 32, n: 3, s: 2 },
  { t: 6, c: 64, n: 4, s: 2 },
  { t: 6, c: 96, n: 3, s: 1 },
  { t: 6, c: 160, n: 3, s: 2 },
  { t: 6, c: 320, n: 1, s: 1 },
];

export const mobilenetV2: StudentDefinition = {
  name: 'mobilenet_v2',
  family: 'mobilenet_v2',
  variant: '',
  blocks: table.map(({ n }) => n),
  classifier: 'classifier',
  scalable: true,
  build,
};

function build({ head, widthMultiplier, dropping }: StudentOptions): GraphSpec {
  const g = new GraphBuilder('mobilenet_v2', { dropping });
  let x = g.convNorm(
    g.images,
    'features.0',
    { channels: makeDivisible(32 * widthMultiplier), kernel: 3, stride: 2 },
    'relu6',
  );
  let index = 1;
  for (const { t, c, n, s } of table) {
    for (let i = 0; i < n; i++, index++) {
      x = invertedResidual(g, x, `features.${index}.conv`, t, makeDivisible(c * widthMultiplier), i === 0 ? s : 1);
    }
  }
  x = g.convNorm(x, `features.${index}`, { channels: makeDivisible(1280 * Math.max(1, widthMultiplier)) }, 'relu6');
  const pooled = g.globalPool(x);
  const init = { weight: { kind: 'normal', std: 0.01 }, bias: zeros } as const;
  return withHead(g, pooled, head, (outputs) =>
    g.linear(g.dropout(pooled, 0.2), 'classifier.1', { features: outputs, init }),
  );
}

/** Expand (unless t is 1), depthwise, project without an activation; the input is added where shapes agree. */
function invertedResidual(g: GraphBuilder, x: Value, name: string, t: number, channels: number, stride: number): Value {
  const hidden = Math.round(x.channels * t);
  let y = x;
  let part = 0;
  if (t !== 1) y = g.convNorm(y, `${name}.${part++}`, { channels: hidden }, 'relu6');
  y = g.convNorm(y, `${name}.${part++}`, { channels: hidden, kernel: 3, stride, groups: hidden }, 'relu6');
  y = g.batchNorm(g.conv(y, `${name}.${part}`, { channels }), `${name}.${part + 1}`);
  return stride === 1 && x.channels === channels ? g.add(y, x) : y;
}
