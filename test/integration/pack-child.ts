/** Packs in a process of its own, so that it can be killed: node child.mjs <source> <output> <as>. Prints a line once it begins to read images. */
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import type { PackKind } from '../../lib/data/pack/format.js';

const [, , path, output, as] = process.argv as [string, string, string, string, PackKind];
const source = await openImages(path, { labels: 'auto' });
await packImages(source, { output, as, shortSide: as === 'original' ? undefined : 64, syncSeconds: 0, onProgress: ({ done }) => process.stdout.write(`${done}\n`) });
