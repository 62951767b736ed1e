/**
 * The configuration beside a tool's weights: the architecture, and how its input is prepared, in the tool's own words.
 */
import { join } from 'node:path';
import type { StudentInfo } from '../models/student-info.js';
import type { Tool, ToolNaming } from '../models/tools/naming.js';
import { version } from '../package.js';

/** Its first line in a file that is no JSON. */
export const yamlMark = '# lgdistill';

/**
 * @param naming the architecture in the tool
 * @param to the folder, for the paths in it
 */
export function toolConfig(
  tool: Tool,
  naming: ToolNaming,
  info: StudentInfo,
  to: string,
): { name: string; text: string } {
  if (tool === 'detectron2') return { name: 'config.yaml', text: detectron2Config(naming, info, to) };
  const content = tool === 'timm' ? timmConfig(naming, info) : mmConfig(naming, info, to);
  return {
    name: 'config.json',
    text: `${JSON.stringify({ ...content, lgdistill: { version, ...info } }, undefined, 2)}\n`,
  };
}

/** timm's pretrained_cfg: `timm.create_model('local-dir:folder')` and hub uploads read it. */
function timmConfig({ model, options }: ToolNaming, { resolution, mean, std }: StudentInfo): object {
  return {
    architecture: model,
    num_classes: 0,
    pretrained_cfg: {
      input_size: [3, resolution, resolution],
      fixed_input_size: false,
      interpolation: 'bicubic',
      crop_pct: 1,
      crop_mode: 'center',
      mean,
      std,
      num_classes: 0,
      ...options,
    },
  };
}

/** What goes into a whole model's configuration: cfg.merge_from_dict takes it. */
function mmConfig({ model: type, options }: ToolNaming, info: StudentInfo, to: string): object {
  const to255 = (values: readonly number[]) => values.map((value) => Number((255 * value).toFixed(4)));
  return {
    model: {
      data_preprocessor: { mean: to255(info.mean), std: to255(info.std), bgr_to_rgb: true },
      backbone: {
        _delete_: true,
        type,
        ...options,
        init_cfg: { type: 'Pretrained', checkpoint: join(to, 'model.pth'), prefix: 'backbone' },
      },
    },
  };
}

function detectron2Config({ options }: ToolNaming, { mean, std }: StudentInfo, to: string): string {
  const to255 = (values: readonly number[]) =>
    `[${values.map((value) => Number((255 * value).toFixed(4))).join(', ')}]`;
  return [
    `${yamlMark} ${version}: for cfg.merge_from_file`,
    'MODEL:',
    `  WEIGHTS: ${JSON.stringify(join(to, 'model.pth'))}`,
    `  PIXEL_MEAN: ${to255(mean)}`,
    `  PIXEL_STD: ${to255(std)}`,
    '  RESNETS:',
    ...Object.entries(options ?? {}).map(([name, value]) => `    ${name}: ${String(value)}`),
    'INPUT:',
    '  FORMAT: "RGB"',
    '',
  ].join('\n');
}
