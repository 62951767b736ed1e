// The page of options, from the option table of lib/config.ts.

const intro = `# Options

Every option of \`lgdistill distill\`, and which values it takes. \`resume\`, \`evaluate\`, \`report\`, \`bank build\`, \`names\` and \`bench\` take the ones that mean something to them
(\`lgdistill <command> --help\`). In a configuration file (\`--config run.json\`) an option stands under its dotted name, \`{ "train": { "batchSize": 256 } }\`; flags win over the file. A switch
takes \`true\` or \`false\`, alone it means \`true\`; \`--no-\` before its name means \`false\`. A list in a flag is JSON: \`--names '["cat","dog"]'\`. [Tuning](tuning.md) tells
which ones to change, and when.

This page is written by \`npm run docs:options\`; a test fails where it is older than the options.`;

/**
 * @param options rows of configOptions()
 * @returns the page, Markdown
 */
export function optionsPage(options) {
  const groups = new Map();
  for (const option of options) {
    const group = option.path.includes('.') ? option.path.slice(0, option.path.indexOf('.')) : 'general';
    groups.set(group, [...(groups.get(group) ?? []), option]);
  }
  const tables = [...groups].map(([group, rows]) => [`## ${group}`, '', '| option | flag | default | values | what |', '|---|---|---|---|---|', ...rows.map(line)].join('\n'));
  return `${[intro, ...tables].join('\n\n')}\n`;
}

function line({ path, flag, alias, default: value, allowed, help }) {
  const flags = alias === undefined || alias === flag ? [flag] : [alias, flag];
  const cells = [`\`${path}\``, flags.map((name) => `\`${name}\``).join(' '), value === undefined ? '' : `\`${show(value)}\``, allowed, help];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

/** 0.7500000000000001 -> '0.75': six digits say what was meant. */
function show(value) {
  return typeof value === 'number' ? String(Number(value.toPrecision(6))) : JSON.stringify(value);
}
