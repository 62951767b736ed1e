// The type of a configuration, from the option table of lib/config/options.ts: what an editor shows of an option is
// what the page of options says. What zod infers has no words.
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';

const groupWords = {
  data: 'Training images, and how they are decoded and kept.',
  teacherCache: "The teacher's embeddings of views that come back.",
  student: 'The student that `prepareRun` makes.',
  loss: 'Weights, temperatures and banks of the loss.',
  train: 'Schedule, batches and optimiser.',
  augment: 'How views are drawn.',
  evaluate: 'Evaluations while training and after it.',
  dense: 'Segmentation and detection.',
  checkpoint: 'When checkpoints are written, and how many are kept.',
  log: 'Lines of metrics.',
};

const head = `/** Written by \`npm run docs:options\` from the schema in lib/config/schema.ts; a test fails where it is older. */

/** What {@link parseConfig} accepts: any part of a configuration. What is left out, or undefined, has its default. */
export interface ConfigInput {`;

/**
 * @param options rows of configOptions()
 * @returns lib/config/input.ts
 */
export async function configInputType(options) {
  const lines = [];
  let open;
  for (const option of options) {
    const [group, name] = option.path.includes('.') ? option.path.split('.') : [undefined, option.path];
    if (group !== open) {
      if (open !== undefined) lines.push('  } | undefined;');
      if (group !== undefined) lines.push(...comment('  ', words(group)), `  ${group}?: {`);
      open = group;
    }
    const indent = group === undefined ? '  ' : '        '; // as the formatter has it
    lines.push(...comment(indent, describe(option)), `${indent}${name}?: ${typeOf(option)} | undefined;`);
  }
  if (open !== undefined) lines.push('  } | undefined;');
  const config = await resolveConfig(fileURLToPath(import.meta.url));
  return format([head, ...lines, '}'].join('\n'), { ...config, parser: 'typescript' });
}

/** The lines of a comment: one where it fits, which is 120 columns as the formatter has it. */
function comment(indent, text) {
  const most = 120 - indent.length;
  if (text.length + '/**  */'.length <= most) return [`${indent}/** ${text} */`];
  const lines = [''];
  for (const word of text.split(' ')) {
    const longer = lines.at(-1) === '' ? word : `${lines.at(-1)} ${word}`;
    if (longer.length + ' * '.length <= most) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return [`${indent}/**`, ...lines.map((line) => `${indent} * ${line}`), `${indent} */`];
}

function words(group) {
  if (groupWords[group] === undefined)
    throw new Error(`the group ${group} has no words in scripts/docs/config-input.mjs`);
  return groupWords[group];
}

/** Help, range and default; a union of words needs no list of them. */
function describe({ help, type, choices, allowed, default: value }) {
  const range = choices === undefined && type !== 'list' && allowed !== 'text' ? ` Allowed: ${allowed}.` : '';
  const standard =
    value === undefined ? '' : ` Default: \`${typeof value === 'number' ? Number(value.toPrecision(6)) : value}\`.`;
  return `${help}.${range}${standard}`.replaceAll('*/', '* /');
}

function typeOf({ type, choices, words }) {
  if (type === 'list') return 'string | readonly string[]';
  if (type === 'boolean') return 'boolean';
  if (choices !== undefined) return choices.map((choice) => `'${choice}'`).join(' | ');
  return [...(words ?? []).map((word) => `'${word}'`), type === 'integer' ? 'number' : type].join(' | ');
}
