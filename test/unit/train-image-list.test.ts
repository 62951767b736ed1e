import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, it, vi } from 'vitest';
import { parseConfig } from '../../lib/config/config.js';
import { IdPlaces } from '../../lib/data/image-id.js';
import type { Dataset } from '../../lib/train/batch.js';
import { checkStillThere, imagesOf, imagesOfContinued, writeImageList } from '../../lib/train/resume/image-list.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
let count = 0;

/** Images of these names. */
const dataset = (ids: string[]) =>
  ({ length: ids.length, ids, sourceIndex: Int32Array.from(ids.keys()) }) as unknown as Dataset;

/** A run that was begun with these images. */
async function begunWith(ids: string[]) {
  const output = join(folder, `run-${count++}`);
  const checkpoint = join(output, 'checkpoints', 'step-00000001');
  await mkdir(checkpoint, { recursive: true });
  await writeFile(join(checkpoint, 'manifest.json'), '{}');
  const config = parseConfig({ output, data: { train: 'images', maxBrokenShare: 0.5 } });
  await writeFile(join(output, 'config.json'), JSON.stringify(config));
  await writeImageList(output, dataset(ids));
  return { config, hash: (await imagesOf(dataset(ids), undefined)).hash };
}

it('a run goes on with the same images, whether their names begin with ./ or not', async () => {
  const ids = ['a.tar/x/1.jpg', 'a.tar/x/2.jpg', 'b.tar/3.jpg'];
  const dotted = ids.map((id) => id.replace('/', '/./'));
  for (const [then, now] of [
    [dotted, ids],
    [ids, dotted],
    [ids, ids],
  ] as const) {
    const { config, hash } = await begunWith(then);
    await checkStillThere(config, now);
    expect(await imagesOfContinued(config, dataset(now), undefined)).toMatchObject({
      length: 3,
      hash,
      standIns: undefined,
      gone: [],
    });
    await expect(imagesOfContinued(config, dataset([...now, 'b.tar/4.jpg']), undefined)).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('1 are new (b.tar/4.jpg)') as unknown,
    });
  }
});

it('names are looked up one by one only where the images are not simply the same, and others have their turn meanwhile', async () => {
  const ids = Array.from({ length: 50_000 }, (_, i) => `n${i % 1000}/${i}.jpg`).sort();
  const { config } = await begunWith(ids);
  const lookUps = vi.spyOn(IdPlaces.prototype, 'get');
  try {
    await checkStillThere(config, ids);
    await imagesOfContinued(config, dataset(ids), undefined);
    expect(lookUps).toHaveBeenCalledTimes(0);
    const [less, stop] = [ids.slice(1), new AbortController()];
    expect(await imagesOfContinued(config, dataset(less), undefined)).toMatchObject({
      length: 50_000,
      gone: [{ id: ids[0] }],
    });
    setImmediate(() => stop.abort());
    await expect(checkStillThere(config, less, stop.signal)).rejects.toMatchObject({ code: 'ABORTED' });
  } finally {
    lookUps.mockRestore();
  }
});

it('images of one name go on as they were begun', async () => {
  const { config, hash } = await begunWith(['a', 'b', 'a']);
  expect(await imagesOfContinued(config, dataset(['a', 'b', 'a']), undefined)).toMatchObject({
    hash,
    standIns: undefined,
    gone: [],
  });
});

it('a list with a line that is of no image is named, with the line', async () => {
  for (const line of ['x', '1\t\t2', '\t\t"b.jpg"', '-1\t\t"b.jpg"', '1\tNaN\t"b.jpg"', '1\t5\t["b.jpg"]', '1\t5']) {
    const { config } = await begunWith(['a.jpg', 'b.jpg']);
    await writeFile(join(config.output, 'images.tsv.gz'), gzipSync(`0\t\t"a.jpg"\n${line}\n`));
    await expect(checkStillThere(config, ['a.jpg', 'b.jpg']), line).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('line 2 is of no image') as string,
    });
  }
});
