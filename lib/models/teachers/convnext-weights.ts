/** A ConvNeXt in a file of weights: its sizes by the shapes of its tensors, and what its configuration says beside. */
import { join } from 'node:path';
import { LgdError } from '../../errors.js';
import { convNextNames, convNextSpelling, convNextSpellings, type ConvNextSpelling } from './convnext-naming.js';
import { convNext, leastSide, type ConvNextConfig } from './convnext.js';
import { activationOf, checkSizes, readJsonFile, readModelConfig, type TowerConfig } from './model-config.js';
import { readPreprocessor } from './preprocessor.js';
import { countBlocks, type ImageTower, type Shapes } from './tower-sizes.js';
import type { ChannelTriple } from './types.js';

/** What a folder says of a ConvNeXt that stands alone: timm's config.json, or transformers'. */
interface OwnFile {
  architecture?: string;
  pretrained_cfg?: { input_size?: number[]; mean?: ChannelTriple; std?: ChannelTriple };
  /** What a model was created with besides its name. */
  model_args?: { act_layer?: string; norm_layer?: string; norm_eps?: number; output_stride?: number };
  image_size?: number;
  hidden_act?: string;
  layer_norm_eps?: number;
}

/** timm's that differ by sizes alone, and by nothing that no tensor tells. */
const timmArchitectures = /^convnext_(?:tiny|small|base|large|xlarge)$/u;

async function readOwnConfig(folder: string, isTimm: boolean): Promise<TowerConfig> {
  const file: OwnFile | undefined = await readJsonFile(join(folder, 'config.json'));
  if (file === undefined)
    throw new LgdError('BAD_MODEL', `${folder} has no config.json, so nothing tells the activation of its ConvNeXt.`, {
      mend: "Fetch the model's config.json",
    });
  const preprocessor = await readPreprocessor(folder);
  const refuse = (option: string, found: unknown, allowed: string) =>
    new LgdError('BAD_MODEL', `the ConvNeXt in ${folder} is not one known here.`, {
      option,
      found,
      allowed,
      mend: 'Fetch its config.json, or export it to ONNX with one output [B,D]',
    });
  if (isTimm && !timmArchitectures.test(file.architecture ?? ''))
    throw refuse('architecture', file.architecture, 'convnext_tiny, _small, _base, _large or _xlarge');
  const args = file.model_args ?? {};
  const changed = (['act_layer', 'norm_layer', 'output_stride'] as const).find((name) => args[name] !== undefined);
  if (isTimm && changed !== undefined) throw refuse(`model_args.${changed}`, args[changed], 'to leave it out');
  const activation = activationOf(file.hidden_act ?? 'gelu');
  if (activation !== 'gelu') throw refuse('hidden_act', file.hidden_act, 'gelu');
  const { input_size: size, mean, std } = file.pretrained_cfg ?? {};
  const stated: TowerConfig = {
    eps: isTimm ? args.norm_eps : file.layer_norm_eps,
    imageSize: preprocessor?.resolution ?? (isTimm ? size?.[2] : (file.image_size ?? 224)),
    mean: preprocessor?.mean ?? mean,
    std: preprocessor?.std ?? std,
  };
  return checkSizes(stated, `the ConvNeXt in ${folder}`);
}

/**
 * The image tower of a file that holds a ConvNeXt, else undefined. One that stands alone embeds by its normed mean, a
 * classifier behind it is left out.
 * @param wanted side of its input; default: what its configuration says
 * @throws LgdError BAD_MODEL, BAD_OPTION (a resolution of less than 32 pixels)
 */
export async function findConvNext(shapes: Shapes, where: string, wanted?: number): Promise<ImageTower | undefined> {
  const key = convNextSpelling(shapes);
  if (key === undefined) return undefined;
  const isClip = key === 'openClip';
  const config = isClip ? await readModelConfig(where, 'openai', 'vision') : await readOwnConfig(where, key === 'timm');
  const spelling: ConvNextSpelling = convNextSpellings[key];
  const { eps, mean, std } = config;
  const imageSize = wanted ?? config.imageSize;
  if (imageSize === undefined)
    throw new LgdError('BAD_MODEL', `nothing in ${where} tells the size of the images that its ConvNeXt sees.`, {
      mend: `Fetch the model's ${isClip ? 'open_clip_config.json' : 'config.json'}, or give teacherResolution`,
    });
  if (wanted !== undefined && wanted < leastSide)
    throw new LgdError('BAD_OPTION', `a ConvNeXt, as that in ${where}, sees nothing of so small an image.`, {
      option: 'resolution',
      found: wanted,
      allowed: `${leastSide} or more`,
    });
  const { prefix, name } = spelling;
  const outputs = (parameter: string) => shapes.get(prefix + name(parameter))?.[0] ?? 0;
  const stages = [0, 1, 2, 3].map((stage) => `stages.${stage}.blocks.`);
  const widths = stages.map((blocks) => outputs(`${blocks}0.conv_dw.weight`));
  const sizes: ConvNextConfig = {
    depths: stages.map((blocks) => countBlocks(shapes, prefix + name(blocks))),
    widths,
    expansion: outputs(`${stages[0]!}0.mlp.fc1.weight`) / widths[0]!,
    eps: eps ?? 1e-6,
    head: isClip ? headOf(shapes) : [],
    imageSize,
  };
  const embeddingSize = sizes.head.at(-1)?.features ?? widths[3]!;
  const graph = convNext(sizes);
  return {
    architecture: isClip ? 'ConvNeXt' : 'plain ConvNeXt',
    graph,
    naming: convNextNames(shapes, spelling),
    embeddingSize,
    resolution: imageSize,
    mean,
    std,
  };
}

/** open_clip's projection of one layer or two, or timm's classifier in its place. */
function headOf(shapes: Shapes): ConvNextConfig['head'] {
  const head = 'visual.head.';
  const layers = [[`${head}proj`], [`${head}mlp.fc1`, `${head}mlp.fc2`], ['visual.trunk.head.fc']].find(([first]) =>
    shapes.has(`${first!}.weight`),
  );
  return (layers ?? []).map((name) => ({
    name,
    features: shapes.get(`${name}.weight`)?.[0] ?? 0,
    bias: shapes.has(`${name}.bias`),
  }));
}
