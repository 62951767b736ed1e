import { setImmediate, setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { embedImages, teacherEmbedder } from '../../lib/evaluate/embed.js';
import type { NativeTeacher } from '../../lib/models/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { ownTeacher, plainPicture, smallCache } from '../fixtures/tiny.js';

it('frees a teacher’s encoder at once where its images find no memory', () => {
  let held = 0;
  const compile = () => {
    held++;
    return {
      device: {},
      makeImages: () => {
        throw new LgdError('OUT_OF_MEMORY', 'the device has no memory left.');
      },
      dispose: () => held--,
    };
  };
  const teacher = { kind: 'native', resolution: 32, compile } as unknown as NativeTeacher;
  expect(() => teacherEmbedder({} as Device, teacher, { batch: 1 })).toThrow('no memory left');
  expect(held).toBe(0);
});

describe('embedImages', async () => {
  const device = await openDevice('cpu', { threads: 1 });
  const picture = await plainPicture('teal', 40);
  const cache = await ImageCache.build(
    imagesFromBuffers(Array.from({ length: 8 }, (_, i) => ({ id: String(i), bytes: picture }))),
    smallCache(device, temporaryFolder()),
  );
  const halves = [0.5, 0.5, 0.5] as const;
  /** As the cache's images, with a count of the batches that are out. */
  function counted() {
    const images = {
      length: cache.length,
      store: cache.store,
      out: 0,
      prepare: () => {
        images.out++;
        return { store: cache.store, release: () => void images.out-- };
      },
    };
    return images;
  }

  it('refuses embeddings of a caller’s own teacher that are not one an image', async () => {
    for (const wrong of [new Float32Array(3), new Float32Array(64), [1, 2], null]) {
      using embedder = teacherEmbedder(device, ownTeacher({ embed: async () => wrong as never }), { batch: 2 });
      const images = counted();
      await expect(
        embedImages(embedder, { device, images, mean: halves, std: halves, what: 'it' }, () => undefined),
      ).rejects.toMatchObject({ code: 'BAD_SHAPE', option: 'teacher', allowed: 'a Float32Array [2,16]' });
      await setImmediate(); // the batch behind it ends by itself
      expect(images.out).toBe(0);
    }
  });

  it('keeps the embeddings of a teacher that writes each batch into one array', async () => {
    const one = new Float32Array(32);
    let calls = 0;
    using embedder = teacherEmbedder(device, ownTeacher({ embed: async () => one.fill(++calls) }), { batch: 2 });
    const taken: Float32Array[] = [];
    const task = { device, images: counted(), mean: halves, std: halves, what: 'it' };
    await embedImages(embedder, task, (rows) => void taken.push(rows));
    // two batches are on their way at once: either may be asked first
    expect(taken.map(([first]) => first).sort()).toEqual([1, 2, 3, 4]);
  });

  it('calls nobody and holds no batch once it was stopped', async () => {
    const stop = new AbortController();
    const slow = ownTeacher({ embed: async (_, batch) => setTimeout(20, new Float32Array(16 * batch).fill(1)) });
    using embedder = teacherEmbedder(device, slow, { batch: 2 });
    let calls = 0;
    const images = counted();
    const embedded = embedImages(
      embedder,
      { device, images, mean: halves, std: halves, what: 'it' },
      () => void calls++,
      {
        signal: stop.signal,
        onProgress: () => stop.abort(),
      },
    );
    await expect(embedded).rejects.toMatchObject({ code: 'ABORTED' });
    const before = calls;
    await setTimeout(100);
    expect(calls).toBe(before);
    expect(images.out).toBe(0);
  });

  it('calls nobody once it has failed', async () => {
    const slow = ownTeacher({ embed: async (_, batch) => setTimeout(20, new Float32Array(16 * batch).fill(1)) });
    using embedder = teacherEmbedder(device, slow, { batch: 2 });
    const failing = {
      ...counted(),
      prepare: async ([first]: Int32Array) => {
        if (first! >= 2) throw new LgdError('BAD_FILE', 'the system fails to read.');
        return { store: cache.store, release: () => undefined };
      },
    };
    let calls = 0;
    const count = () => void calls++;
    const embedded = embedImages(embedder, { device, images: failing, mean: halves, std: halves, what: 'it' }, count, {
      onProgress: count,
    });
    await expect(embedded).rejects.toMatchObject({ code: 'BAD_FILE' });
    expect(calls).toBe(2); // of the batch before, which was whole
    await setTimeout(100);
    expect(calls).toBe(2);
  });
});
