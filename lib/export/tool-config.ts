/** The configuration beside a tool's weights: the architecture, and how its input is prepared, in the tool's own words. */
import { join } from 'node:path';
import type { Tool } from '../models/tools/naming.js';
import type { StudentInfo } from '../models/student-info.js';
import { version } from '../version.js';

/** Its first line in a file that is no JSON. */
export const yamlMark = '# lgdistill';

/**
 * @param model the architecture's name in the tool
 * @param to the folder, for the paths in it
 */
export function toolConfig(tool: Tool, model: string, info: StudentInfo, to: string): { name: string; text: string } {
  if (tool === 'detectron2') return { name: 'config.yaml', text: detectron2Config(info, to) };
  const content = tool === 'timm' ? timmConfig(model, info) : mmConfig(tool as 'mmdet' | 'mmseg', model, info, to);
  return { name: 'config.json', text: `${JSON.stringify({ ...content, lgdistill: { version, ...info } }, undefined, 2)}\n` };
}

/** timm's pretrained_cfg: `timm.create_model('local-dir:folder')` and hub uploads read it. */
function timmConfig(architecture: string, { resolution, mean, std, architecture: name }: StudentInfo): object {
  const isResnet = name.startsWith('resnet');
  return {
    architecture,
    num_classes: 0,
    pretrained_cfg: {
      input_size: [3, resolution, resolution], fixed_input_size: false, interpolation: 'bicubic', crop_pct: 1, crop_mode: 'center', mean, std,
      num_classes: 0, first_conv: isResnet ? 'conv1' : 'conv_stem', classifier: isResnet ? 'fc' : 'classifier',
    },
  };
}

/** What goes into a whole model's configuration: cfg.merge_from_dict takes it. */
function mmConfig(tool: 'mmdet' | 'mmseg', type: string, info: StudentInfo, to: string): object {
  const to255 = (values: readonly number[]) => values.map((value) => Number((255 * value).toFixed(4)));
  return {
    model: {
      data_preprocessor: { mean: to255(info.mean), std: to255(info.std), bgr_to_rgb: true },
      backbone: { _delete_: true, type, ...backboneOptions(tool, type, info), init_cfg: { type: 'Pretrained', checkpoint: join(to, 'model.pth'), prefix: 'backbone' } },
    },
  };
}

function backboneOptions(tool: 'mmdet' | 'mmseg', type: string, { architecture, widthMultiplier }: StudentInfo): object {
  const norm = { type: 'BN', requires_grad: true };
  switch (type) {
    case 'ResNet': return { depth: Number(architecture.slice('resnet'.length)), num_stages: 4, out_indices: [0, 1, 2, 3], norm_cfg: norm, style: 'pytorch' };
    case 'MobileNetV2': return { widen_factor: widthMultiplier, out_indices: tool === 'mmdet' ? [2, 3, 5, 7] : [1, 2, 4, 6], norm_cfg: norm, act_cfg: { type: 'ReLU6' } };
    case 'MobileNetV3': return { arch: architecture.slice('mobilenet_v3_'.length), norm_cfg: { ...norm, eps: 0.001 } };
    default: return { arch: architecture.slice('efficientnet_'.length), out_indices: [2, 3, 4, 5], conv_cfg: null, norm_cfg: norm }; // without conv_cfg it would pad as TensorFlow does, and eps would be 1e-3
  }
}

function detectron2Config({ architecture, mean, std }: StudentInfo, to: string): string {
  const depth = Number(architecture.slice('resnet'.length));
  const to255 = (values: readonly number[]) => `[${values.map((value) => Number((255 * value).toFixed(4))).join(', ')}]`;
  return [
    `${yamlMark} ${version}: for cfg.merge_from_file`,
    'MODEL:',
    `  WEIGHTS: ${JSON.stringify(join(to, 'model.pth'))}`,
    `  PIXEL_MEAN: ${to255(mean)}`,
    `  PIXEL_STD: ${to255(std)}`,
    '  RESNETS:',
    `    DEPTH: ${depth}`,
    `    RES2_OUT_CHANNELS: ${depth < 50 ? 64 : 256}`,
    '    STRIDE_IN_1X1: false',
    'INPUT:',
    '  FORMAT: "RGB"',
    '',
  ].join('\n');
}
