/**
 * Reads a large pack as training does, batch after batch in a random order, in a process of its own whose memory is
 * only this: node child.mjs <pack> <batches>. Prints JSON: kilobytes of the process's own memory (without files that
 * are mapped) after a tenth of the batches and at the end, and images read.
 */
import { readFileSync } from 'node:fs';
import { BatchPlan } from '../../lib/data/loader.js';
import { openDataset } from '../../lib/data/open-dataset.js';
import { openImages } from '../../lib/data/open-images.js';
import { readAhead } from '../../lib/data/read-ahead.js';
import { openDevice } from '../../lib/device.js';

const [, , path, count] = process.argv as [string, string, string, string];
const ownKilobytes = () => Number(/RssAnon:\s+(\d+)/u.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
const batchSize = 256;
const device = await openDevice('cpu', { threads: 1 });
const dataset = await openDataset(await openImages(path), 'stream', {
  device,
  resolution: 32,
  margin: 1,
  memoryLimitBytes: 0,
  spillFolder: '/tmp',
  maxBrokenShare: 0,
});
const views = device.addon.makeImages(device.handle, batchSize, 32, 32, false);
let [batches, early] = [0, 0];
for await (const batch of readAhead(dataset, new BatchPlan(dataset, { batchSize, seed: 1 }), 4)) {
  device.addon.augment(batch.store, { train: true, mean: [0, 0, 0], std: [1, 1, 1] }, batch, views);
  await device.synchronize();
  batch.release();
  batches++;
  if (batches === Math.ceil(Number(count) / 10)) early = ownKilobytes();
  if (batches === Number(count)) break;
}
process.stdout.write(JSON.stringify({ early, late: ownKilobytes(), images: batches * batchSize }));
