/** Runs on images that the system fails to read while they are streamed. */
import { copyFile, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { LgdError } from '../../lib/errors.js';
import type { Dataset } from '../../lib/train/batch.js';
import type { RunEvent } from '../../lib/train/events.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ofType, sameBits, smallConfig, train, type Outcome } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let data: string;
let config: (run: string) => ConfigInput;
let whole: Outcome;

/** 32 images: eight batches of eight, two a step. */
beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  config = (run) => ({
    ...smallConfig(data, join(folder, run), {
      teacher,
      bank,
      data: { cache: 'stream', readAhead: 1 },
      train: { accumulate: 2 },
    }),
    names: undefined,
  });
  whole = await train(config('whole'));
});

async function expectSameAfterResuming(run: string): Promise<void> {
  const { weights } = await train(await resumeConfig(join(folder, run)), { resume: 'last' });
  for (const [name, values] of Object.entries(whole.weights)) expect(sameBits(weights[name]!, values), name).toBe(true);
}

test('end with an error that names the image, and go on to the same bits once it can be read', async () => {
  const image = join(data, 'cross', '3.png');
  await using prepared = await prepareRun(config('failed'));
  await copyFile(image, join(folder, 'kept.png'));
  await rm(image);
  const server = createServer().listen(image); // to open a socket as a file fails with ENXIO
  await new Promise((resolve) => server.once('listening', resolve));
  const events = async () => {
    for await (const event of prepared.run()) void event;
  };
  await expect(events()).rejects.toMatchObject({
    code: 'BAD_FILE',
    message: expect.stringMatching(/cross\/3\.png.*ENXIO/u) as unknown,
  });
  await new Promise((resolve) => server.close(resolve));
  await copyFile(join(folder, 'kept.png'), image);
  expect(await readFile(join(folder, 'failed', 'log.txt'), 'utf8')).toMatch(/failed: .*cross\/3\.png.*ENXIO/u);
  await expect(readFile(join(folder, 'failed', 'broken-images.txt'))).rejects.toMatchObject({ code: 'ENOENT' });
  await expectSameAfterResuming('failed');
});

test('leave a checkpoint of the steps before', async () => {
  await using prepared = await prepareRun(config('kept'));
  const { dataset, distiller } = prepared;
  const failing = failingAtFourth(dataset, () => new LgdError('BAD_FILE', 'the system fails to read cross/3.png.'));
  const events: RunEvent[] = [];
  const run = async () => {
    for await (const event of distiller.run(failing)) events.push(event);
  };
  await expect(run()).rejects.toMatchObject({ code: 'BAD_FILE' });
  expect(events.map(({ type }) => type)).toEqual(['start', 'step', 'checkpoint']);
  await expectSameAfterResuming('kept');
});

/** A data set whose fourth batch, the second of the second step, is not given. */
function failingAtFourth(dataset: Dataset, fail: () => Error | Promise<Error>): Dataset {
  const plan = new BatchPlan(dataset, { batchSize: 8, seed: 3 });
  const waitedFor = Array.from({ length: 4 }, () => plan.next())[3]!.images;
  const { length, ids, sourceIndex } = dataset;
  return {
    length,
    ids,
    sourceIndex,
    get store() {
      return dataset.store;
    },
    prepare: async (images) => {
      if (images.some((image, i) => image !== waitedFor[i])) return dataset.prepare!(images);
      throw await fail();
    },
  };
}

test('are stopped while an image is waited for, with a checkpoint that knows of no batch that no step took', async () => {
  await using prepared = await prepareRun(config('stopped'));
  const { dataset, distiller } = prepared;
  const controller = new AbortController();
  const failing = failingAtFourth(dataset, async () => {
    await new Promise((resolve) => setTimeout(resolve, 2000)); // by then the step waits for it
    controller.abort();
    return new LgdError('ABORTED', 'reading the images was stopped.');
  });
  const events: RunEvent[] = [];
  for await (const event of distiller.run(failing, { signal: controller.signal })) events.push(event);
  expect(ofType(events, 'interrupted')[0]).toMatchObject({ step: 1 });
  await expectSameAfterResuming('stopped');
});

/** A data set with counts of the batches that it gave out and got back. */
function counting(dataset: Dataset): { counted: Dataset; counts: { given: number; back: number } } {
  const { length, ids, sourceIndex } = dataset;
  const counts = { given: 0, back: 0 };
  const prepare = async (images: Int32Array) => {
    const ready = await dataset.prepare!(images);
    counts.given++;
    return {
      ...ready,
      release: () => {
        counts.back++;
        ready.release();
      },
    };
  };
  return {
    counted: {
      length,
      ids,
      sourceIndex,
      get store() {
        return dataset.store;
      },
      prepare,
    },
    counts,
  };
}

test('are stopped while an image is waited for that never comes, and give all pixels back', async () => {
  await using prepared = await prepareRun(config('hanging'));
  const { counted, counts } = counting(prepared.dataset);
  const controller = new AbortController();
  const hanging = failingAtFourth(counted, () => new Promise(() => setTimeout(() => controller.abort(), 500)));
  const events: RunEvent[] = [];
  for await (const event of prepared.distiller.run(hanging, { signal: controller.signal })) events.push(event);
  expect(ofType(events, 'interrupted')[0]).toMatchObject({ step: 1 });
  expect(counts.back).toBe(counts.given);
  await expectSameAfterResuming('hanging');
});

test('give the pixels back of a step that nobody waits for', async () => {
  await using prepared = await prepareRun(config('left'));
  const { counted, counts } = counting(prepared.dataset);
  for await (const { type } of prepared.distiller.run(counted)) if (type === 'step') break;
  expect([counts.given > 2, counts.back]).toEqual([true, counts.given]);
});
