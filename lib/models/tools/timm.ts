/** timm's names: its ResNets have torchvision's, its MobileNets and EfficientNets one scheme (timm/models/_efficientnet_blocks.py). */
import { mobileLayers, stagesOf, type LayerRole, type StudentLayer } from './layers.js';
import { ownNames, unsupported, type NamedStudent, type ToolNaming } from './naming.js';

const widths: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  mobilenet_v2: { 0.35: 'mobilenetv2_035', 0.5: 'mobilenetv2_050', 0.75: 'mobilenetv2_075', 1: 'mobilenetv2_100', 1.4: 'mobilenetv2_140' },
  mobilenet_v3_small: { 1: 'mobilenetv3_small_100' }, // at other widths timm rounds the expanded channels in another way
  mobilenet_v3_large: { 1: 'mobilenetv3_large_100' },
};

/** @throws LgdError BAD_OPTION for a width that timm does not have */
export function timmNaming(student: NamedStudent, instead: () => string): ToolNaming {
  const { architecture, widthMultiplier, graph } = student;
  if (architecture.startsWith('resnet')) return { model: architecture, modules: ownNames(graph, 'fc'), eps: 1e-5 };
  const known = widths[architecture];
  const model = known === undefined ? architecture : known[widthMultiplier];
  if (model === undefined) throw unsupported('timm', student, `${architecture} at width ${Object.keys(known!).sort((a, b) => Number(a) - Number(b)).join(', ')}`, instead());
  const layers = mobileLayers(graph);
  const stages = stagesOf(architecture, layers);
  const isV3 = architecture.startsWith('mobilenet_v3');
  const last = isV3 ? lastOfV3(stages.at(-1)!.stage) : (['conv_head', 'bn2'] as const);
  const modules = new Map<string, string>();
  for (const layer of layers) {
    const [conv, norm] = layer.role === 'stem' ? ['conv_stem', 'bn1'] : layer.role === 'last' ? last : inBlock(layer, layers, stages);
    modules.set(layer.conv, conv!);
    if (layer.norm !== undefined) modules.set(layer.norm, norm!);
  }
  if (!isV3) for (const part of ['0', '2']) modules.set(`head.${part}`, `classifier.${part}`); // MobileNetV3 has a convolution between pooling and classifier
  return { model, modules, eps: 1e-5 };
}

/** MobileNetV3's last convolution is a stage of its own. */
function lastOfV3(stage: number): readonly [string, string] {
  return [`blocks.${stage + 1}.0.conv`, `blocks.${stage + 1}.0.bn1`];
}

const expanding: Readonly<Partial<Record<LayerRole, readonly [conv: string, norm: string]>>> = {
  expand: ['conv_pw', 'bn1'], depthwise: ['conv_dw', 'bn2'], squeeze: ['se.conv_reduce', ''], excite: ['se.conv_expand', ''], project: ['conv_pwl', 'bn3'],
};
const separable: typeof expanding = { ...expanding, depthwise: ['conv_dw', 'bn1'], project: ['conv_pw', 'bn2'] };

function inBlock({ role, block }: StudentLayer, layers: readonly StudentLayer[], stages: readonly { stage: number; place: number }[]): string[] {
  const expands = layers.some((other) => other.block === block && other.role === 'expand');
  const { stage, place } = stages[block]!;
  return (expands ? expanding : separable)[role]!.map((name) => `blocks.${stage}.${place}.${name}`);
}
