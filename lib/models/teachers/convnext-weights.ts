/** A ConvNeXt in a file of weights: its sizes by the shapes of its tensors, and its parameters by timm's names. */
import { LgdError } from '../../errors.js';
import { convNext, leastSide, type ConvNextConfig } from './convnext.js';
import type { TowerConfig } from './model-config.js';
import { scaledRows, type Naming } from './naming.js';
import { countBlocks, type ImageTower, type Shapes } from './tower-sizes.js';

/** Where open_clip keeps a network of timm's, and what it puts behind it. */
const [trunk, head] = ['visual.trunk.', 'visual.head.'];

/** Does the file hold an open_clip model whose image tower is a ConvNeXt? */
export function hasConvNext(shapes: Shapes): boolean {
  return shapes.has(`${trunk}stem.0.weight`) && shapes.has(`${trunk}stages.0.blocks.0.conv_dw.weight`);
}

/**
 * The image tower of such a file.
 * @param wanted side of its input; default: what its configuration says
 * @throws LgdError BAD_MODEL, BAD_OPTION (a resolution of less than 32 pixels)
 */
export function convNextTower(shapes: Shapes, config: TowerConfig, where: string, wanted?: number): ImageTower {
  const { eps, mean, std } = config;
  const imageSize = wanted ?? config.imageSize;
  if (imageSize === undefined)
    throw new LgdError('BAD_MODEL', `nothing in ${where} tells the size of the images that its ConvNeXt sees.`, {
      mend: "Fetch the model's open_clip_config.json, or give teacherResolution",
    });
  if (wanted !== undefined && wanted < leastSide)
    throw new LgdError('BAD_OPTION', `a ConvNeXt, as that in ${where}, sees nothing of so small an image.`, {
      option: 'resolution',
      found: wanted,
      allowed: `${leastSide} or more`,
    });
  const size = (name: string, axis: number) => shapes.get(name)?.[axis] ?? 0;
  const stages = [0, 1, 2, 3].map((stage) => `${trunk}stages.${stage}.blocks.`);
  const widths = stages.map((blocks) => size(`${blocks}0.conv_dw.weight`, 0));
  const sizes: ConvNextConfig = {
    depths: stages.map((blocks) => countBlocks(shapes, blocks)),
    widths,
    expansion: size(`${stages[0]!}0.mlp.fc1.weight`, 0) / widths[0]!,
    eps: eps ?? 1e-6,
    head: headOf(shapes),
    imageSize,
  };
  const embeddingSize = sizes.head.at(-1)?.features ?? widths[3]!;
  const graph = convNext(sizes);
  return { architecture: 'ConvNeXt', graph, naming: names(shapes), embeddingSize, resolution: imageSize, mean, std };
}

/** open_clip's projection of one layer or two, or timm's classifier in its place. */
function headOf(shapes: Shapes): ConvNextConfig['head'] {
  const layers = [[`${head}proj`], [`${head}mlp.fc1`, `${head}mlp.fc2`], [`${trunk}head.fc`]].find(([first]) =>
    shapes.has(`${first!}.weight`),
  );
  return (layers ?? []).map((name) => ({
    name,
    features: shapes.get(`${name}.weight`)?.[0] ?? 0,
    bias: shapes.has(`${name}.bias`),
  }));
}

function names(shapes: Shapes): Naming {
  return {
    belongs: (name) => name.startsWith('visual.'),
    source: (name, shape) => {
      const tensor = name.startsWith('visual.') ? name : trunk + name;
      const isLayer = /\.mlp\.fc[12]\.weight$/u.test(name) && tensor.startsWith(trunk);
      const stored = isLayer && shapes.get(tensor)?.length === 2 ? shape.slice(0, 2) : shape; // else conv_mlp's
      const [, block] = /^(stages\.\d+\.blocks\.\d+\.)mlp\.fc2\.(?:weight|bias)$/u.exec(name) ?? [];
      const gamma = `${trunk}${block}gamma`;
      if (block === undefined || !shapes.has(gamma)) return { tensors: [[tensor, stored]] };
      return {
        tensors: [
          [tensor, stored],
          [gamma, [shape[0]!]],
        ],
        make: ([values, factors]) => scaledRows(values!, factors!),
      };
    },
  };
}
