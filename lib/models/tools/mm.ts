/** Names of MMDetection's and MMSegmentation's backbones, as the weights of a whole model have them: under `backbone.`, which init_cfg's prefix takes away. */
import { mobileLayers, stagesOf, type LayerRole, type StudentLayer } from './layers.js';
import { ownNames, unsupported, type NamedStudent, type ToolNaming } from './naming.js';

const prefix = 'backbone.';

/** ResNet, MobileNetV2 and EfficientNet; there is no MobileNetV3. @throws LgdError BAD_OPTION */
export function mmdetNaming(student: NamedStudent, instead: () => string): ToolNaming {
  const { architecture, widthMultiplier, graph } = student;
  if (architecture.startsWith('resnet')) return resnet(student);
  const layers = mobileLayers(graph);
  const stages = stagesOf(architecture, layers);
  if (architecture === 'mobilenet_v2') {
    const last = graph.parameters.find(({ name }) => name === `${layers.at(-1)!.conv}.weight`)!.shape[0]!;
    if (last !== Math.trunc(1280 * Math.max(1, widthMultiplier))) throw unsupported('mmdet', student, 'a width whose 1280-fold is a multiple of 8', instead());
    return { model: 'MobileNetV2', modules: mobileModules(layers, (block) => `layer${stages[block]!.stage + 1}.${stages[block]!.place}`, { stem: 'conv1', last: 'conv2' }) };
  }
  if (!architecture.startsWith('efficientnet')) throw unsupported('mmdet', student, 'resnet18, resnet34, resnet50, mobilenet_v2, efficientnet_b0 to efficientnet_b3', instead());
  // Stages at one resolution are one layer: the fourth with the fifth, the sixth with the seventh.
  const layerOf = [1, 2, 3, 4, 4, 5, 5];
  const places = stages.map(({ stage }, block) => stages.slice(0, block).filter((other) => layerOf[other.stage] === layerOf[stage]).length);
  return { model: 'EfficientNet', modules: mobileModules(layers, (block) => `layers.${layerOf[stages[block]!.stage]!}.${places[block]!}`, { stem: 'layers.0', last: 'layers.6' }) };
}

/** ResNet, MobileNetV2 (without its last convolution) and MobileNetV3 at width 1; there is no EfficientNet. @throws LgdError BAD_OPTION */
export function mmsegNaming(student: NamedStudent, instead: () => string): ToolNaming {
  const { architecture, widthMultiplier, graph } = student;
  if (architecture.startsWith('resnet')) return resnet(student);
  const layers = mobileLayers(graph);
  if (architecture === 'mobilenet_v2') {
    const stages = stagesOf(architecture, layers);
    const blocks = layers.filter(({ role }) => role !== 'last');
    const inSequence = (layer: StudentLayer) => `conv.${blocks.filter(({ block }) => block === layer.block).indexOf(layer)}`;
    return { model: 'MobileNetV2', modules: mobileModules(blocks, (block) => `layer${stages[block]!.stage + 1}.${stages[block]!.place}`, { stem: 'conv1' }, inSequence) };
  }
  if (!architecture.startsWith('mobilenet_v3') || widthMultiplier !== 1) throw unsupported('mmseg', student, 'resnet18, resnet34, resnet50, mobilenet_v2; mobilenet_v3_small and mobilenet_v3_large at width 1', instead());
  const last = `layer${layers.at(-2)!.block + 2}`;
  return { model: 'MobileNetV3', modules: mobileModules(layers, (block) => `layer${block + 1}`, { stem: 'layer0', last }) };
}

function resnet({ graph }: NamedStudent): ToolNaming {
  return { model: 'ResNet', modules: new Map([...ownNames(graph, undefined)].map(([ours, theirs]) => [ours, prefix + theirs])) };
}

const roles: Readonly<Partial<Record<LayerRole, string>>> = { expand: 'expand_conv', depthwise: 'depthwise_conv', squeeze: 'se.conv1', excite: 'se.conv2', project: 'linear_conv' };

/** Every convolution is a ConvModule: `conv` and `bn` under its name. */
function mobileModules(layers: readonly StudentLayer[], blockName: (block: number) => string, outside: { stem: string; last?: string }, partName = ({ role }: StudentLayer) => roles[role]!): Map<string, string> {
  const modules = new Map<string, string>();
  for (const layer of layers) {
    const name = layer.role === 'stem' || layer.role === 'last' ? outside[layer.role]! : `${blockName(layer.block)}.${partName(layer)}`;
    modules.set(layer.conv, `${prefix}${name}.conv`);
    if (layer.norm !== undefined) modules.set(layer.norm, `${prefix}${name}.bn`);
  }
  return modules;
}
