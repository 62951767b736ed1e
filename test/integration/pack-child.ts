/**
 * Packs in a process of its own, so that it can be killed: node child.mjs <source> <output> <as> <seconds between syncs>
 * [<images> <milliseconds>]. Prints how many images it has packed, the first time before it begins. It kills itself
 * that long after it comes to the image of that number, or is done where there are no more.
 */
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import type { PackKind } from '../../lib/data/pack/format.js';

const [, , path, output, as, seconds, killAt, delay] = process.argv as [
  ...[string, string, string, string, PackKind, string],
  ...string[],
];
const source = await openImages(path, { labels: 'auto' });
const reach = (image: number) => {
  if (killAt === undefined || image < Number(killAt)) return;
  if (delay === '0') process.kill(process.pid, 'SIGKILL');
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), Number(delay));
};
const read = async (image: number) => {
  reach(image);
  return source.read(image);
};
await packImages(
  { ...source, read },
  {
    output,
    as,
    shortSide: as === 'original' ? undefined : 64,
    syncSeconds: Number(seconds),
    onProgress: ({ done }) => {
      process.stdout.write(`${done}\n`);
      reach(done);
    },
  },
);
