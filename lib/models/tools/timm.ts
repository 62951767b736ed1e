/**
 * timm's names: its ResNets have torchvision's, its MobileNets and EfficientNets one scheme
 * (timm/models/_efficientnet_blocks.py).
 */
import { mobileLayers, blockPlaces, type LayerRole, type StudentLayer } from './layers.js';
import { ownNames, type FamilyNaming, type NamedStudent } from './naming.js';

const eps = 1e-5;

const resnet: FamilyNaming = ({ architecture, graph }) => ({
  model: architecture,
  modules: ownNames(graph, 'fc'),
  eps,
  options: { first_conv: 'conv1', classifier: 'fc' },
});

const ofMobile = { first_conv: 'conv_stem', classifier: 'classifier' };

const withConvHead: FamilyNaming = ({ architecture, graph }, { blocks }) => {
  const modules = mobileModules(mobileLayers(graph), blocks, ['conv_head', 'bn2']);
  for (const part of ['0', '2']) modules.set(`head.${part}`, `classifier.${part}`);
  return { model: architecture, modules, eps, options: ofMobile };
};

const efficientnetV2: FamilyNaming = (student, definition, refuse) => ({
  ...withConvHead(student, definition, refuse),
  model: `efficientnetv2_${definition.variant}`,
});

/** The models of those students that timm has at more than one width, or under another name. */
const models: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  mobilenet_v2: {
    0.35: 'mobilenetv2_035',
    0.5: 'mobilenetv2_050',
    0.75: 'mobilenetv2_075',
    1: 'mobilenetv2_100',
    1.4: 'mobilenetv2_140',
  },
  mobilenetv4_conv_small: {
    0.35: 'mobilenetv4_conv_small_035',
    0.5: 'mobilenetv4_conv_small_050',
    1: 'mobilenetv4_conv_small',
  },
};

/** The model of a student at its width. */
function atWidth({ architecture, widthMultiplier }: NamedStudent, refuse: Parameters<FamilyNaming>[2]): string {
  const widths = models[architecture] ?? { 1: architecture };
  const model = widths[widthMultiplier];
  if (model === undefined)
    throw refuse(
      `${architecture} at width ${Object.keys(widths)
        .sort((a, b) => Number(a) - Number(b))
        .join(', ')}`,
    );
  return model;
}

const mobilenetV2: FamilyNaming = (student, definition, refuse) => ({
  ...withConvHead(student, definition, refuse),
  model: atWidth(student, refuse),
});

/**
 * Its last convolution is a stage of its own, and between pooling and classifier is another, so that it has no place
 * for a head. At other widths timm rounds the expanded channels in another way.
 */
const mobilenetV3: FamilyNaming = ({ architecture, widthMultiplier, graph }, { variant, blocks }, refuse) => {
  if (widthMultiplier !== 1) throw refuse(`${architecture} at width 1`);
  const last = `blocks.${blocks.length}.0`;
  return {
    model: `mobilenetv3_${variant}_100`,
    modules: mobileModules(mobileLayers(graph), blocks, [`${last}.conv`, `${last}.bn1`]),
    eps,
    options: ofMobile,
  };
};

/** Of students that torchvision lacks: this package's names are timm's. */
const own: FamilyNaming = (student, { classifier }, refuse) => ({
  model: atWidth(student, refuse),
  modules: ownNames(student.graph, classifier),
  eps,
  options: ofMobile,
});

/** The same of those that timm builds with TensorFlow's eps, whatever it is asked for. */
const ownTf: FamilyNaming = (student, definition, refuse) => ({ ...own(student, definition, refuse), eps: 1e-3 });

const convnext: FamilyNaming = ({ architecture, graph }, { classifier }) => ({
  model: architecture,
  modules: ownNames(graph, classifier),
  options: { first_conv: 'stem.0', classifier },
});

/** timm gives a model of a fixed size the table of positions of its configuration's input_size. */
const vit: FamilyNaming = ({ architecture, graph }, { classifier }) => ({
  model: architecture,
  modules: ownNames(graph, classifier),
  options: { fixed_input_size: true, first_conv: 'patch_embed.proj', classifier },
});

export const timm = {
  own,
  ownTf,
  convnext,
  vit,
  resnet,
  mobilenetV2,
  mobilenetV3,
  efficientnet: withConvHead,
  efficientnetV2,
};

/** @param last names of the last convolution and its norm */
function mobileModules(
  layers: readonly StudentLayer[],
  blocks: readonly number[],
  last: readonly [conv: string, norm: string],
): Map<string, string> {
  const stages = blockPlaces(blocks);
  const modules = new Map<string, string>();
  for (const layer of layers) {
    const [conv, norm] =
      layer.role === 'stem' ? ['conv_stem', 'bn1'] : layer.role === 'last' ? last : inBlock(layer, layers, stages);
    modules.set(layer.conv, conv!);
    if (layer.norm !== undefined) modules.set(layer.norm, norm!);
  }
  return modules;
}

const expanding: Readonly<Partial<Record<LayerRole, readonly [conv: string, norm: string]>>> = {
  expand: ['conv_pw', 'bn1'],
  depthwise: ['conv_dw', 'bn2'],
  squeeze: ['se.conv_reduce', ''],
  excite: ['se.conv_expand', ''],
  project: ['conv_pwl', 'bn3'],
};
const separable: typeof expanding = { ...expanding, depthwise: ['conv_dw', 'bn1'], project: ['conv_pw', 'bn2'] };
const fused: typeof expanding = { fused: ['conv_exp', 'bn1'], project: ['conv_pwl', 'bn2'] };
/** A fused block without an expansion. */
const convolution: typeof expanding = { fused: ['conv', 'bn1'] };

function inBlock(
  { role, block }: StudentLayer,
  layers: readonly StudentLayer[],
  stages: readonly { stage: number; place: number }[],
): string[] {
  const has = (one: LayerRole) => layers.some((other) => other.block === block && other.role === one);
  const { stage, place } = stages[block]!;
  const names = has('fused') ? (has('project') ? fused : convolution) : has('expand') ? expanding : separable;
  return names[role]!.map((name) => `blocks.${stage}.${place}.${name}`);
}
