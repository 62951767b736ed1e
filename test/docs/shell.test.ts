/**
 * The blocks marked `sh run` and `py run`, run as they stand, each page in a folder like the one it speaks of. What is
 * another thing here than in the text is declared below.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { ensureBuilt } from '../cli/built.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';
import { noteSkip } from '../shared.js';
import { blocksOf, pages, root } from './pages.js';

/** Models on the hub, and those that stand in for them. */
const hubModels: Readonly<Record<string, string>> = {
  'Xenova/clip-vit-base-patch32': tinyClip,
  'timm/resnet50_clip.openai': tinyClip,
  'timm/vit_small_patch14_reg4_dinov2.lvd142m': join(root, 'test/vectors/towers/timm-dinov2-reg4'),
};
/**
 * Students, and one that takes a third of their time to train, evaluate and write: but on the first page, and on those
 * whose Python opens what was written.
 */
const largeStudents = /\bresnet(?:18|50)\b(?!_clip)/gu;
const smallStudent = 'mobilenet_v2';
/** Options added to each command that begins so, so that it takes seconds; the last of two options wins. */
const smaller: Record<string, string> = {
  distill: '--epochs 1 --batch-size 8 --accumulate 1 --width-multiplier 1 --offline',
  'bench data': '--seconds 0.05 --resolution 64',
  bench: '--seconds 0.05 --batch-size 2 --resolution 64',
};
/** And to `distill`, but on the first page, where what comes before training and after it is once as a user has it. */
const smallest = '--no-preflight --no-report';

const blockMilliseconds = 300_000; // a block starts several programs

const folder = temporaryFolder();
const bin = join(folder, 'bin');

/** `lgdistill` and `npx lgdistill` as commands of the shell: this checkout's program. */
function makeCommands(): void {
  mkdirSync(bin);
  const cases = Object.entries(smaller)
    .map(([name, options]) => `'${name} '*) set -- "$@" ${options}${name === 'distill' ? ' $SMALLEST' : ''};;`)
    .join(' ');
  const scripts = {
    lgdistill: `case "$* " in ${cases} esac\nexec '${process.execPath}' '${join(root, 'dist', 'cli', 'main.js')}' "$@"`,
    npx: 'exec "$@"',
  };
  for (const [name, script] of Object.entries(scripts)) {
    writeFileSync(join(bin, name), `#!/usr/bin/env bash\n${script}\n`);
    chmodSync(join(bin, name), 0o755);
  }
}

/**
 * What the pages take for granted: names, templates, a folder of images, labelled ones to be judged on and to learn
 * from; and rows for names, computed elsewhere.
 */
async function furnish(path: string): Promise<void> {
  writeFileSync(join(path, 'names.txt'), `${shapeNames.join('\n')}\n`);
  writeFileSync(join(path, 'templates.txt'), 'a photo of a {}.\na drawing of a {}.\n');
  writeFileSync(join(path, 'folders.json'), JSON.stringify(Object.fromEntries(shapeNames.map((name) => [name, name]))));
  const encoder = await ClipTextEncoder.load(tinyClip);
  const bank = await TextualSemanticsBank.build(shapeNames, { encoder, templates: 'none' });
  await encoder.dispose();
  await writeSafetensors(
    join(path, 'rows.safetensors'),
    [['embeddings', { shape: [bank.size, bank.embeddingSize], data: bank.data }]],
    {},
  );
  for (const [index, name] of ['photos', 'labelled', 'labelled-train'].entries())
    await drawShapes(join(path, name), { count: 4, seed: index + 1 });
}

function run(
  command: string,
  args: readonly string[],
  cwd: string,
  more: Record<string, string> = {},
): { status: number | null; output: string } {
  const env = {
    ...process.env,
    ...more,
    PATH: `${bin}:${process.env['PATH']}`,
    LGDISTILL_ADDON: addonPath(),
    NO_COLOR: '1',
  };
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    env,
    encoding: 'utf8',
    timeout: blockMilliseconds - 5000,
  });
  return { status, output: `${stdout}${stderr}` };
}

const marked = pages
  .map((page) => ({
    page,
    blocks: blocksOf(page).filter(({ words }) => words.includes('run') || words[1]?.startsWith('config=') === true),
  }))
  .filter(({ blocks }) => blocks.length > 0);

beforeAll(async () => {
  await ensureBuilt();
  makeCommands();
});

test('there are such blocks', () => {
  expect(marked.map(({ page }) => page)).toEqual(
    expect.arrayContaining(['README.md', 'docs/recipes.md', 'docs/formats.md']),
  );
});

describe.each(marked)('$page', ({ page, blocks }) => {
  const place = join(folder, page.replaceAll('/', '_'));
  const asWritten = page === 'README.md' || blocks.some(({ words: [language] }) => language === 'py');

  beforeAll(async () => {
    mkdirSync(place);
    await furnish(place);
  });

  test.each(blocks)(
    'line $line',
    ({ words: [language, use], code }) => {
      const written = asWritten ? code : code.replaceAll(largeStudents, smallStudent);
      const text = Object.entries(hubModels).reduce((all, [model, path]) => all.replaceAll(model, path), written);
      if (language === 'json') {
        writeFileSync(join(place, use!.slice('config='.length)), text);
        return;
      }
      if (language === 'py' && run('python3', ['-c', 'import torch, torchvision, safetensors'], place).status !== 0) {
        noteSkip(`the Python of ${page}`, 'python3 has no torch, torchvision or safetensors');
        return;
      }
      const { status, output } =
        language === 'py'
          ? run('python3', ['-c', text], place)
          : run('bash', ['-euo', 'pipefail', '-c', text], place, { SMALLEST: page === 'README.md' ? '' : smallest });
      expect(status, output).toBe(0);
    },
    blockMilliseconds,
  );
});
