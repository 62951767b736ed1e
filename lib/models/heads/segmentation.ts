/**
 * Heads that give every position a class: a fully convolutional one, and the light LR-ASPP of MobileNetV3. Parameters
 * have torchvision's names.
 */
import { LgdError } from '../../errors.js';
import { GraphBuilder, type GraphSpec, type Initialisation, type Value } from '../graph.js';
import { dilate, lastMap, mapGraph, stagesOf } from '../stages.js';

/** fcn: Long et al. 2015, torchvision's FCNHead. lraspp: Howard et al. 2019, section 6.4. */
export type SegmentationHead = 'fcn' | 'lraspp';

export interface SegmentationGraphOptions {
  head: SegmentationHead;
  /** K. */
  classes: number;
  /** Of the backbone: 8 or 16; 32 leaves it as it is. */
  outputStride: number;
  /** Enlarge the scores to the image's size, as training wants them; else they stay on the head's grid. */
  enlarge: boolean;
}

const lowStride = 8;
/** Start of the last layers: no class is likelier than another. */
const small: Initialisation = { kind: 'normal', std: 0.01 };

/**
 * A student's backbone with a segmentation head in the place of its projection head: [B,h,w,K].
 * @param student with its projection head
 * @throws LgdError BAD_MODEL, BAD_OPTION
 */
export function segmentationGraph(
  student: GraphSpec,
  { head, classes, outputStride, enlarge }: SegmentationGraphOptions,
): GraphSpec {
  const plain = mapGraph(student);
  const backbone = dilate(plain, outputStride);
  const g = new GraphBuilder(`${student.name}_${head}`, { start: backbone });
  const high = lastMap(backbone);
  const [scores, stride] =
    head === 'fcn'
      ? [fcn(g, high, classes), outputStride]
      : [lraspp(g, lowOf(plain), high, outputStride, classes), lowStride];
  return g.finish(enlarge ? g.resize(scores, stride) : scores);
}

function lowOf(graph: GraphSpec): Value {
  const low = stagesOf(graph).find(({ stride }) => stride === lowStride);
  if (low === undefined)
    throw new LgdError('BAD_MODEL', `${graph.name} has no map at stride ${lowStride}.`, {
      mend: 'Choose the head fcn',
    });
  return low.value;
}

/** 3x3 convolution to a quarter of the channels, norm, ReLU, dropout, 1x1 convolution to the classes. */
function fcn(g: GraphBuilder, x: Value, classes: number): Value {
  const inner = g.relu(
    g.batchNorm(
      g.conv(x, 'classifier.0', { channels: Math.max(8, Math.floor(x.channels / 4)), kernel: 3 }),
      'classifier.1',
    ),
  );
  return g.conv(g.dropout(inner, 0.1), 'classifier.4', { channels: classes, bias: true, init: small });
}

/**
 * The last map squeezed to 128 channels and gated by its own mean, enlarged to stride 8, and there added to what the
 * finer map says.
 */
function lraspp(g: GraphBuilder, low: Value, high: Value, outputStride: number, classes: number): Value {
  const squeezed = g.convNorm(high, 'classifier.cbr', { channels: 128 }, 'relu');
  const gate = g.activation(g.conv(g.globalPool(high), 'classifier.scale.1', { channels: 128 }), 'sigmoid');
  const gated = g.channelScale(squeezed, gate);
  const fine = outputStride > lowStride ? g.resize(gated, outputStride / lowStride) : gated;
  const last = { channels: classes, bias: true, init: small };
  return g.add(g.conv(fine, 'classifier.high_classifier', last), g.conv(low, 'classifier.low_classifier', last));
}
