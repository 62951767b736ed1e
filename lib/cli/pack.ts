import { Command, Option } from 'commander';
import { counted } from '../counted.js';
import { openImages } from '../data/open-images.js';
import { packKinds, type PackKind } from '../data/pack/format.js';
import { packImages, type PackOptions } from '../data/pack/pack.js';
import { PackFile } from '../data/pack/reader.js';
import { checkPackPlace } from '../data/pack/writer.js';
import { LgdError } from '../errors.js';
import type { Bind } from './command.js';
import { exitCodes } from './failure.js';
import { refuseFlags } from './needless.js';
import { addConfigOptions, readConfig } from './options.js';
import { withProgress } from './progress.js';
import { formatBytes, formatFacts } from './table.js';
import type { Terminal } from './terminal.js';
import { parseCount } from './values.js';

interface PackFlags extends Pick<PackOptions, 'shortSide' | 'quality'> {
  output?: string;
  as: PackKind;
  labels: 'auto' | 'folders' | 'none';
  overwrite?: string;
  verify?: string;
}

const mostListed = 20;

export function packCommand(bind: Bind): Command {
  const command = new Command('pack')
    .description('pack images into one file that is read faster than a folder; or verify such a file')
    .argument(
      '[source]',
      'a folder, WebDataset tar shards (a file, a folder, shard-{000..123}.tar), CIFAR binary files, parquet files, or a pack',
    )
    .option('--output <file>', 'the pack; what was packed into it before an interruption is kept')
    .addOption(
      new Option(
        '--as <kind>',
        'what is kept: each file as it is, a JPEG at a short side, or raw pixels at a short side',
      )
        .choices(packKinds)
        .default('original'),
    )
    .option(
      '--short-side <n>',
      'of jpeg [default 256] and raw [default 280: 1.25 x 224, which training at 224 pixels keeps]; smaller images keep their size',
      parseCount('short-side'),
    )
    .option('--quality <n>', 'of jpeg, 1 to 100 [default 90]', parseCount('quality'))
    .addOption(
      new Option('--labels <which>', 'take labels where there are some, need them, or leave them out')
        .choices(['auto', 'folders', 'none'])
        .default('auto'),
    )
    .option('--overwrite <true|false>', 'replace a pack that is there, and begin anew')
    .option('--verify <file>', 'read all of a pack, and name every image that is not what was written');
  addConfigOptions(command, ['data.maxBrokenShare'], { file: false });
  return command.action(
    bind(async ({ terminal, signal }, source) => {
      const { verify, output, as, shortSide, quality, labels, overwrite } = command.opts<PackFlags>();
      if (verify !== undefined && (source ?? output) !== undefined)
        throw new LgdError('BAD_OPTION', 'a pack is verified, and nothing is packed.', {
          option: 'verify',
          found: verify,
          mend: 'Pack first, and verify the pack then',
        });
      if (verify !== undefined) {
        refuseFlags(command, (option) => option !== 'verify', { where: 'a pack is verified' });
        return verifyPack(verify, terminal, signal);
      }
      if (source === undefined)
        throw new LgdError('BAD_OPTION', 'there is nothing to pack.', {
          option: 'source',
          mend: 'Give images, or --verify and a pack',
        });
      if (output === undefined)
        throw new LgdError('BAD_OPTION', 'is needed to pack.', {
          option: 'output',
          mend: 'Give --output, the file to write',
        });
      const {
        data: { maxBrokenShare },
      } = await readConfig(command);
      await checkPackPlace(output, overwrite === 'true');
      const images = await openImages(source as string, { labels, signal });
      const from = performance.now();
      const result = await withProgress(terminal, 'pack', (progress) =>
        packImages(images, {
          output,
          as,
          shortSide,
          quality,
          overwrite: overwrite === 'true',
          maxBrokenShare,
          signal,
          onProgress: ({ done, total, broken }) =>
            progress.update(done, total, broken === 0 ? '' : `${broken} refused | `),
        }),
      );
      const { file, images: count, bytes, refused, resumed } = result;
      const seconds = (performance.now() - from) / 1000;
      terminal.emit({ ...result, seconds, remarks: images.remarks });
      terminal.say(
        `${file}: ${counted(count, 'image')}, ${formatBytes(bytes)}, ${((images.ids.length - resumed) / seconds).toFixed(0)} images/s${resumed > 0 ? `; ${resumed} had been packed before` : ''}`,
      );
      for (const remark of images.remarks ?? []) terminal.say(remark);
      if (refused.length > 0) terminal.say(listed(`${refused.length} refused`, refused));
      return exitCodes.done;
    }),
  );
}

async function verifyPack(path: string, terminal: Terminal, signal: AbortSignal): Promise<number> {
  const pack = await PackFile.open(path);
  const { recipe, classNames, source, refused } = pack.index;
  const { kind, shortSide, quality } = recipe;
  const damaged = await withProgress(terminal, 'verify', (progress) =>
    pack.verify({ signal, onProgress: (done, total) => progress.update(done, total) }),
  );
  terminal.emit({
    file: path,
    kind,
    shortSide,
    quality,
    images: pack.length,
    bytes: pack.fileBytes,
    classes: classNames?.length,
    source,
    refused,
    damaged,
  });
  terminal.say(
    formatFacts([
      ['images', `${pack.length} of ${source}`],
      [
        'kept as',
        kind === 'original'
          ? 'the files as they were'
          : `${kind} at a short side of ${shortSide} pixels${quality > 0 ? `, quality ${quality}` : ''}`,
      ],
      ['labels', classNames === undefined ? 'none' : counted(classNames.length, 'class', 'classes')],
      ['refused', String(refused.length)],
      ['bytes', formatBytes(pack.fileBytes)],
      ['damaged', damaged.length === 0 ? 'none' : String(damaged.length)],
    ]),
  );
  if (damaged.length === 0) return exitCodes.done;
  terminal.say(listed('damaged', damaged));
  return exitCodes.failed;
}

function listed(heading: string, images: readonly { id: string; reason: string }[]): string {
  const rest = images.length - mostListed;
  return [
    `${heading}:`,
    ...images.slice(0, mostListed).map(({ id, reason }) => `  ${id}: ${reason}`),
    ...(rest > 0 ? [`  and ${rest} more (--json lists all)`] : []),
  ].join('\n');
}
