// The page of options, from the option table of lib/config/options.ts.

const intro = `# Options

Every option of \`lgdistill distill\`, and which values it takes. \`resume\`, \`evaluate\`, \`report\`, \`bank build\`, \`names\` and \`bench\` take the ones that mean something to them
(\`lgdistill <command> --help\`); the group \`dense\` belongs to [\`segment\` and \`detect\`](dense.md) alone. In a configuration file (\`--config run.json\`) the dots of a name are nesting: \`train.batchSize\` is written \`{ "train": { "batchSize": 256 } }\`; flags win over the file. A switch
takes \`true\` or \`false\`, alone it means \`true\`; \`--no-\` before its name means \`false\`. An option that is given by two of its names with two values is refused (by one name, the last counts), and so is a flag that has no use beside the others; commands that train or evaluate name such a flag in a note and go on, unless what it asks for would be missed (a new run refuses \`teacherCache.file\` without views, and names to choose among without a folder to evaluate on). A file may hold what other commands take. A list in a flag is JSON, \`--names '["cat","dog"]'\`, and \`--names cat,dog\` is none. [Tuning](tuning.md) tells
which ones to change, and when.

This page is written by \`npm run docs:options\`; a test fails where it is older than the options.`;

const environment = `## Environment

Debug switches stand in [CONTRIBUTING](../CONTRIBUTING.md#debug-switches).

| variable | what |
|---|---|
| \`HF_HOME\`, \`HF_HUB_CACHE\`, \`XDG_CACHE_HOME\` | where downloaded models are kept, as for every Hugging Face client: \`$HF_HUB_CACHE\`, or \`hub/\` in \`$HF_HOME\`, or \`~/.cache/huggingface/hub\`. The last also moves what was found out about a GPU |
| \`HF_ENDPOINT\`, \`HF_TOKEN\` | a mirror of the hub; a token for private and gated models |
| \`NODE_USE_ENV_PROXY=1\` | Node (22.21 or later) takes the proxy that \`HTTPS_PROXY\` names |
| \`HF_HUB_OFFLINE\`, \`TRANSFORMERS_OFFLINE\` | 1: no downloads, like \`--offline\` |
| \`UV_THREADPOOL_SIZE\` | threads that decode images: all cores for the command line, 4 for other programs, if not set; at most as many as there are cores |
| \`NO_COLOR\`, \`FORCE_COLOR\`, \`TERM\`, \`CI\` | colours off; on; a dumb terminal; plain lines in the place of progress bars |
| \`LGDISTILL_ADDON\`, \`LGDISTILL_PROBE\`, \`LGDISTILL_WGMMA\`, \`LGDISTILL_PDL\`, \`LGDISTILL_TURBOJPEG\`, \`LGDISTILL_DEBUG\` | [which addon](troubleshooting.md#the-addon-does-not-load); \`off\` or \`again\`: [the trial of a GPU](troubleshooting.md#cuda); 0 or 1: without or with [its own products](troubleshooting.md#cuda), and likewise with kernels that [start early](troubleshooting.md#cuda); \`off\`, or the shared library that decodes [plain JPEG files](data.md#when-images-are-decoded); 1: stacks of errors |`;

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
  const tables = [...groups].map(([group, rows]) =>
    [`## ${group}`, '', '| option | flag | default | values | what |', '|---|---|---|---|---|', ...rows.map(line)].join(
      '\n',
    ),
  );
  return `${[intro, ...tables, environment].join('\n\n')}\n`;
}

function line({ path, flag, alias, default: value, allowed, help }) {
  const flags = alias === undefined || alias === flag ? [flag] : [alias, flag];
  const cells = [
    `\`${path}\``,
    flags.map((name) => `\`${name}\``).join(' '),
    value === undefined ? '' : `\`${show(value)}\``,
    allowed,
    help,
  ];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

/** 0.7500000000000001 -> '0.75': six digits say what was meant. */
function show(value) {
  return typeof value === 'number' ? String(Number(value.toPrecision(6))) : JSON.stringify(value);
}
