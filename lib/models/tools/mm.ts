/**
 * Names of MMDetection's and MMSegmentation's backbones, as the weights of a whole model have them: under `backbone.`,
 * which init_cfg's prefix takes away.
 */
import { mobileLayers, blockPlaces, type LayerRole, type StudentLayer } from './layers.js';
import { ownNames, type FamilyNaming, type ToolNaming } from './naming.js';

const prefix = 'backbone.';
const norm = { type: 'BN', requires_grad: true };

const resnet: FamilyNaming = ({ graph }, { variant }) => ({
  model: 'ResNet',
  modules: new Map([...ownNames(graph, undefined)].map(([ours, theirs]) => [ours, prefix + theirs])),
  options: { depth: Number(variant), num_stages: 4, out_indices: [0, 1, 2, 3], norm_cfg: norm, style: 'pytorch' },
});

const detectionV2: FamilyNaming = ({ widthMultiplier, graph }, { blocks }, refuse) => {
  const layers = mobileLayers(graph);
  const last = graph.parameters.find(({ name }) => name === `${layers.at(-1)!.conv}.weight`)!.shape[0]!;
  if (last !== Math.trunc(1280 * Math.max(1, widthMultiplier)))
    throw refuse('a width whose 1280-fold is a multiple of 8');
  return {
    model: 'MobileNetV2',
    modules: mobileModules(layers, placesIn('layer', blocks), { stem: 'conv1', last: 'conv2' }),
    options: optionsOfV2(widthMultiplier, [2, 3, 5, 7]),
  };
};

const efficientnet: FamilyNaming = ({ graph }, { variant, blocks }) => {
  // its stages are one layer
  const atOneResolution = [[0], [1], [2], [3, 4], [5, 6]].map((stages) =>
    stages.reduce((sum, stage) => sum + blocks[stage]!, 0),
  );
  const modules = mobileModules(mobileLayers(graph), placesIn('layers.', atOneResolution), {
    stem: 'layers.0',
    last: 'layers.6',
  });
  // without conv_cfg it would pad as TensorFlow does, and eps would be 1e-3
  return {
    model: 'EfficientNet',
    modules,
    options: { arch: variant, out_indices: [2, 3, 4, 5], conv_cfg: null, norm_cfg: norm },
  };
};

export const mmdet = { resnet, mobilenetV2: detectionV2, efficientnet };

/** Without its last convolution. */
const segmentationV2: FamilyNaming = ({ widthMultiplier, graph }, { blocks }) => {
  const layers = mobileLayers(graph).filter(({ role }) => role !== 'last');
  const inSequence = (layer: StudentLayer) =>
    `conv.${layers.filter(({ block }) => block === layer.block).indexOf(layer)}`;
  return {
    model: 'MobileNetV2',
    modules: mobileModules(layers, placesIn('layer', blocks), { stem: 'conv1' }, inSequence),
    options: optionsOfV2(widthMultiplier, [1, 2, 4, 6]),
  };
};

const segmentationV3: FamilyNaming = ({ architecture, widthMultiplier, graph }, { variant }, refuse) => {
  if (widthMultiplier !== 1) throw refuse(`${architecture} at width 1`);
  const layers = mobileLayers(graph);
  const last = `layer${layers.at(-2)!.block + 2}`;
  return {
    model: 'MobileNetV3',
    modules: mobileModules(layers, (block) => `layer${block + 1}`, { stem: 'layer0', last }),
    options: { arch: variant, norm_cfg: { ...norm, eps: 0.001 } },
  };
};

export const mmseg = { resnet, mobilenetV2: segmentationV2, mobilenetV3: segmentationV3 };

function optionsOfV2(widthMultiplier: number, stages: number[]): ToolNaming['options'] {
  return { widen_factor: widthMultiplier, out_indices: stages, norm_cfg: norm, act_cfg: { type: 'ReLU6' } };
}

/** Names of blocks by stage, from 1, and place in it, from 0. */
function placesIn(stageName: string, blocks: readonly number[]): (block: number) => string {
  const stages = blockPlaces(blocks);
  return (block) => `${stageName}${stages[block]!.stage + 1}.${stages[block]!.place}`;
}

const roles: Readonly<Partial<Record<LayerRole, string>>> = {
  expand: 'expand_conv',
  depthwise: 'depthwise_conv',
  squeeze: 'se.conv1',
  excite: 'se.conv2',
  project: 'linear_conv',
};

/** Every convolution is a ConvModule: `conv` and `bn` under its name. */
function mobileModules(
  layers: readonly StudentLayer[],
  blockName: (block: number) => string,
  outside: { stem: string; last?: string },
  partName = ({ role }: StudentLayer) => roles[role]!,
): Map<string, string> {
  const modules = new Map<string, string>();
  for (const layer of layers) {
    const name =
      layer.role === 'stem' || layer.role === 'last'
        ? outside[layer.role]!
        : `${blockName(layer.block)}.${partName(layer)}`;
    modules.set(layer.conv, `${prefix}${name}.conv`);
    if (layer.norm !== undefined) modules.set(layer.norm, `${prefix}${name}.bn`);
  }
  return modules;
}
