/**
 * A one-stage detector without anchors on a student's stages: FPN (Lin et al. 2017) over strides 8, 16 and 32 with two
 * coarser levels on top, and FCOS's head (Tian et al. 2019). Two choices differ from the papers: maps are enlarged
 * bilinearly instead of to the nearest, and the head's convolutions, shared by all levels, are each followed by a batch
 * norm of the level's own (as in NAS-FPN) instead of group norm; its scale takes the place of FCOS's learned factor of
 * each level.
 */
import { LgdError } from '../../errors.js';
import { GraphBuilder, type GraphSpec, type Initialisation, type Value } from '../graph.js';
import { mapGraph, stagesOf } from '../stages.js';

/** Strides of the levels P3 to P7. */
export const detectionStrides = [8, 16, 32, 64, 128] as const;

export interface DetectionGraphOptions {
  /** K. */
  classes: number;
  /** Of the pyramid and the head; default 128. */
  channels?: number;
}

const small: Initialisation = { kind: 'normal', std: 0.01 };
/**
 * Every class starts at this probability, so that the many locations without one do not drown the rest (Lin et al.
 * 2017, "focal loss").
 */
const prior = 0.01;

/**
 * A student's backbone with a detection head in the place of its projection head. Outputs, level by level: class scores
 * [B,h,w,K], then the logarithms of four distances in strides (left, top, right, bottom) with centre-ness [B,h,w,5].
 * The image's side must be a multiple of 32.
 * @param student with its projection head
 * @throws LgdError BAD_MODEL
 */
export function detectionGraph(student: GraphSpec, { classes, channels = 128 }: DetectionGraphOptions): GraphSpec {
  const backbone = mapGraph(student);
  const g = new GraphBuilder(`${student.name}_fcos`, { start: backbone, dropping: false });
  const stages = new Map(stagesOf(backbone).map(({ stride, value }) => [stride, value]));
  const [c3, c4, c5] = [8, 16, 32].map((stride) => {
    const value = stages.get(stride);
    if (value === undefined)
      throw new LgdError('BAD_MODEL', `${student.name} has no map at stride ${stride}.`, {
        mend: 'Give a student of the registry',
      });
    return value;
  }) as [Value, Value, Value];
  const levels = pyramid(g, c3, c4, c5, channels);
  const outputs = levels.flatMap((level, i) => {
    const name = `p${i + 3}`;
    const shared = i > 0;
    const bias: Initialisation = { kind: 'constant', value: -Math.log((1 - prior) / prior) };
    return [
      g.conv(branch(g, level, 'head.classes', name, channels), 'head.classes.score', {
        channels: classes,
        kernel: 3,
        bias: true,
        init: small,
        biasInit: bias,
        shared,
      }),
      g.conv(branch(g, level, 'head.boxes', name, channels), 'head.boxes.distances', {
        channels: 5,
        kernel: 3,
        bias: true,
        init: small,
        shared,
      }),
    ];
  });
  return g.finish(outputs[0]!, ...outputs.slice(1));
}

/**
 * Each stage squeezed to `channels` and the coarser level added to it, then smoothed; two more levels by strided
 * convolutions.
 */
function pyramid(g: GraphBuilder, c3: Value, c4: Value, c5: Value, channels: number): Value[] {
  const lateral = (x: Value, name: string) =>
    g.batchNorm(g.conv(x, `fpn.${name}.lateral`, { channels }), `fpn.${name}.lateral_norm`);
  const smooth = (x: Value, name: string) =>
    g.batchNorm(g.conv(x, `fpn.${name}.smooth`, { channels, kernel: 3 }), `fpn.${name}.smooth_norm`);
  const m5 = lateral(c5, 'p5');
  const m4 = g.add(lateral(c4, 'p4'), g.resize(m5, 2));
  const m3 = g.add(lateral(c3, 'p3'), g.resize(m4, 2));
  const [p3, p4, p5] = [smooth(m3, 'p3'), smooth(m4, 'p4'), smooth(m5, 'p5')];
  const down = (x: Value, name: string) =>
    g.batchNorm(g.conv(g.relu(x), `fpn.${name}.down`, { channels, kernel: 3, stride: 2 }), `fpn.${name}.down_norm`);
  const p6 = down(p5, 'p6');
  return [p3, p4, p5, p6, down(p6, 'p7')];
}

/** Two 3x3 convolutions that all levels share, with norms of the level's own. */
function branch(g: GraphBuilder, x: Value, name: string, level: string, channels: number): Value {
  let y = x;
  for (let i = 0; i < 2; i++) {
    y = g.relu(
      g.batchNorm(
        g.conv(y, `${name}.${i}`, { channels, kernel: 3, shared: level !== 'p3' }),
        `${name}.${i}.norm_${level}`,
      ),
    );
  }
  return y;
}
