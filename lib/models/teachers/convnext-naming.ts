/**
 * The names of ConvNeXts: timm's, alone or within an open_clip model, and those of transformers' DINOv3ConvNextModel,
 * for the parameters of convnext.ts, whose names are timm's.
 */
import { scaledRows, type Naming } from './naming.js';
import type { Shapes } from './tower-sizes.js';

/** How a file calls what a ConvNeXt is made of. */
export interface ConvNextSpelling {
  /** What stands before a parameter's name. */
  prefix: string;
  /** What every tensor of the tower begins with, projection and all. */
  tower: string;
  /** The name of a parameter, or of the `gamma` of a block. */
  name: (parameter: string) => string;
  /** What under the prefix plays no part in the embedding. */
  others: RegExp;
}

const same = (parameter: string) => parameter;
const nothing = /^$/u;

/** The spellings known here; open_clip's has a projection behind the network, `visual.head`. */
export const convNextSpellings = {
  openClip: { prefix: 'visual.trunk.', tower: 'visual.', name: same, others: nothing },
  timm: { prefix: '', tower: '', name: same, others: /^head\.fc\./u },
  transformers: { prefix: '', tower: '', name: transformersName, others: nothing },
} as const satisfies Record<string, ConvNextSpelling>;

function transformersName(parameter: string): string {
  return [
    [/^stem\./u, 'stages.0.downsample_layers.'],
    [/\.downsample\./u, '.downsample_layers.'],
    [/^head\.norm\./u, 'layer_norm.'],
    [/\.blocks\.(\d+)\.norm\./u, '.blocks.$1.layer_norm.'],
    [/\.blocks\./u, '.layers.'],
    [/\.conv_dw\./u, '.depthwise_conv.'],
    [/\.mlp\.fc([12])\./u, '.pointwise_conv$1.'],
  ].reduce((name, [from, to]) => name.replace(from as RegExp, to as string), parameter);
}

/** Which spelling a file has, if it holds a ConvNeXt. */
export function convNextSpelling(shapes: Shapes): keyof typeof convNextSpellings | undefined {
  const known = Object.keys(convNextSpellings) as (keyof typeof convNextSpellings)[];
  return known.find((key) => {
    const { prefix, name } = convNextSpellings[key];
    return ['stem.0.weight', 'stages.0.blocks.0.conv_dw.weight'].every((part) => shapes.has(prefix + name(part)));
  });
}

export function convNextNames(shapes: Shapes, { prefix, tower, name: nameOf, others }: ConvNextSpelling): Naming {
  return {
    belongs: (name) => name.startsWith(tower) && !others.test(name.slice(prefix.length)),
    source: (name, shape) => {
      const isHead = tower !== '' && name.startsWith(tower);
      const tensor = isHead ? name : prefix + nameOf(name);
      const isLayer = /\.mlp\.fc[12]\.weight$/u.test(name) && tensor.startsWith(prefix);
      const stored = isLayer && shapes.get(tensor)?.length === 2 ? shape.slice(0, 2) : shape; // else conv_mlp's
      const [, block] = /^(stages\.\d+\.blocks\.\d+\.)mlp\.fc2\.(?:weight|bias)$/u.exec(name) ?? [];
      const gamma = prefix + nameOf(`${block}gamma`);
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
