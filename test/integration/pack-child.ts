/**
 * Packs in a process of its own, so that it can be killed: node child.mjs <source> <output> <as> <seconds between
 * syncs>. Prints how many images it has packed, the first time before it begins.
 */
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import type { PackKind } from '../../lib/data/pack/format.js';

const [, , path, output, as, seconds] = process.argv as [string, string, string, string, PackKind, string];
const source = await openImages(path, { labels: 'auto' });
await packImages(source, {
  output,
  as,
  shortSide: as === 'original' ? undefined : 64,
  syncSeconds: Number(seconds),
  onProgress: ({ done }) => process.stdout.write(`${done}\n`),
});
