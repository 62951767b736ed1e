import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { create } from 'tar';
import { describe, expect, it, vi } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { openImages } from '../../lib/data/open-images.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { importSharp } from '../../lib/data/sharp.js';
import { imagesFromBuffers, type ImageSource } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { openDevice } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { picture } from '../fixtures/images/draw.js';

const folder = temporaryFolder();
const options = {
  device: await openDevice('cpu'),
  resolution: 8,
  margin: 1,
  memoryLimitBytes: 1e9,
  spillFolder: folder,
  maxBrokenShare: 0.5,
  readPauses: [1, 1, 1],
};
const count = 8;

/** As Node makes them. */
const systemError = (code: string) =>
  Object.assign(new Error(`${code}: made up, read`), { code, errno: -5, syscall: 'read' });

/** Eight images; `fail` may throw before each attempt to read one. */
async function source(fail: (image: number, attempt: number) => void): Promise<ImageSource & { attempts: number[] }> {
  const images = imagesFromBuffers(
    await Promise.all(
      Array.from({ length: count }, async (_, i) => ({
        id: `image ${i}`,
        bytes: await picture(9 + i, 12)
          .png()
          .toBuffer(),
      })),
    ),
  );
  const attempts = new Array<number>(count).fill(0);
  return {
    ...images,
    attempts,
    read: async (index) => {
      fail(index, ++attempts[index]!);
      return images.read(index);
    },
  };
}

const all = Int32Array.from({ length: count }, (_, i) => i);
/** The ways in which a source is read: the ids of broken images. */
const ways: [
  string,
  (images: ImageSource, more?: { signal?: AbortSignal; readPauses?: number[] }) => Promise<string[]>,
][] = [
  [
    'streamed',
    async (images, more) => {
      using streamed = await StreamedImages.open(images, { ...options, threads: 2, ...more });
      (await streamed.prepare(all)).release();
      return streamed.broken.map(({ id }) => id);
    },
  ],
  [
    'decoded before',
    async (images, more) => {
      using cache = await ImageCache.build(images, { ...options, ...more });
      return cache.broken.map(({ id }) => id);
    },
  ],
  [
    'packed',
    async (images, { signal, readPauses = options.readPauses } = {}) =>
      (
        await packImages(images, {
          output: join(folder, 'some.pack'),
          overwrite: true,
          maxBrokenShare: 0.5,
          signal,
          readPauses,
        })
      ).refused.map(({ id }) => id),
  ],
];

describe.each(ways)('images that are %s', (_, brokenOf) => {
  it('are read again where the system fails for a moment', async () => {
    const images = await source((image, attempt) => {
      if (image === 3 && attempt < 4) throw systemError('EIO');
      // as a pack says it
      if (image === 5 && attempt === 1)
        throw new LgdError('BAD_FILE', 'cannot read some.pack.', { cause: systemError('ESTALE') });
      if (image === 6 && attempt === 1) throw new TypeError('fetch failed', { cause: systemError('ETIMEDOUT') });
    });
    expect(await brokenOf(images)).toEqual([]);
    expect(images.attempts).toEqual([1, 1, 1, 4, 1, 2, 2, 1]);
  });

  it('end what reads them, and are not broken, where it goes on failing', async () => {
    let isDown = true;
    const images = await source(() => {
      if (isDown) throw systemError('ESTALE');
    });
    await expect(brokenOf(images)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringMatching(
        /fails to read image \d of \(memory\): ESTALE: made up.*`lgdistill resume`/u,
      ) as unknown,
      cause: { code: 'ESTALE' },
    });
    isDown = false;
    expect(await brokenOf(images)).toEqual([]);
  });

  it('are broken at once where the file is gone, may not be read, or is not what was written', async () => {
    const faults = new Map<number, Error>([
      [1, systemError('ENOENT')],
      [4, systemError('EACCES')],
      [7, new LgdError('BAD_FILE', 'image 7 is not what was written.')],
    ]);
    const images = await source((image) => {
      if (faults.has(image)) throw faults.get(image)!;
    });
    expect((await brokenOf(images)).sort()).toEqual(['image 1', 'image 4', 'image 7']);
    for (const image of faults.keys()) expect(images.attempts[image]).toBe(1);
  });

  it('end what reads them where `read` has a name in it that does not exist, and are broken where it throws anything else', async () => {
    const mistake = new ReferenceError('recrods is not defined');
    await expect(
      brokenOf(
        await source((image) => {
          if (image === 4) throw mistake;
        }),
      ),
    ).rejects.toBe(mistake);
    expect(
      await brokenOf(
        await source((image) => {
          if (image === 4) throw new TypeError('Invalid URL');
        }),
      ),
    ).toEqual(['image 4']);
  });

  it('end what decodes them, and are not broken, where the system gives it no thread', async () => {
    const decoder = ((await importSharp()) as unknown as { prototype: { toBuffer: () => Promise<Buffer> } }).prototype;
    vi.spyOn(decoder, 'toBuffer').mockRejectedValueOnce(
      new Error('glib: Error creating thread: Resource temporarily unavailable'),
    );
    await expect(brokenOf(await source(() => undefined))).rejects.toMatchObject({
      code: 'DEVICE_UNAVAILABLE',
      mend: expect.stringContaining('ulimit -u') as string,
    });
    vi.restoreAllMocks();
  });

  it('are waited for no longer than until a signal', async () => {
    const images = await source((image) => {
      if (image === 2) throw systemError('EMFILE');
    });
    const started = performance.now();
    await expect(brokenOf(images, { signal: AbortSignal.timeout(50), readPauses: [60_000] })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    expect(performance.now() - started).toBeLessThan(20_000);
  });

  it('are broken where their reading throws, even what is no error', async () => {
    const thrown: unknown[] = [undefined, null, 'gone'];
    const images = await source((image) => {
      if (image < thrown.length) throw thrown[image];
    });
    expect(await brokenOf(images)).toEqual(['image 0', 'image 1', 'image 2']);
  });

  it('that never come are let go when the signal fires', async () => {
    const images = await source(() => undefined);
    const stop = new AbortController();
    const read = images.read.bind(images);
    images.read = async (index) => {
      if (index !== 2) return read(index);
      setImmediate(() => stop.abort());
      return new Promise(() => undefined);
    };
    await expect(brokenOf(images, { signal: stop.signal })).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe.each(ways)('images of one file that are %s', (_, brokenOf) => {
  const kinds: [string, (file: string, bytes: Buffer) => Promise<void>][] = [
    [
      'a.tar',
      async (file, bytes) => {
        const names = Array.from({ length: count }, (__, i) => `${i}.png`);
        for (const name of names) await writeFile(join(folder, name), bytes);
        await create({ file, cwd: folder }, names);
      },
    ],
    ['test_batch.bin', async (file) => writeFile(file, Buffer.alloc(count * 3073))],
    [
      'a.parquet',
      async (file, bytes) =>
        writeFile(
          file,
          Buffer.from(
            parquetWriteBuffer({
              columnData: [{ name: 'image', data: new Array<Buffer>(count).fill(bytes), type: 'BYTE_ARRAY' }],
            }),
          ),
        ),
    ],
  ];
  it.each(kinds)('%s are not broken each by itself where that file is gone', async (name, write) => {
    if (brokenOf === ways[0]![1] && name === 'a.parquet') return; // is read in its order only
    const file = join(folder, name);
    await write(file, await picture(9, 9).png().toBuffer());
    const images = await openImages(file);
    await rename(file, `${file}.away`);
    await expect(brokenOf(images)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringMatching(/ENOENT.*Bring that file back.*`lgdistill resume`/u) as unknown,
    });
    const back = new Promise((resolve) => setTimeout(resolve, 50)).then(() => rename(`${file}.away`, file));
    expect(await brokenOf(images, { readPauses: [30, 1000] })).toEqual([]);
    await back;
  });
});

describe.each(ways)('images of a folder that are %s', (_, brokenOf) => {
  const taken: [string, (root: string) => Promise<void>][] = [
    ['gone', () => Promise.resolve()],
    ['empty, as what a disk was mounted on', async (root) => void (await mkdir(root))],
  ];
  it.each(taken)('are not broken where the folder is %s', async (__, leave) => {
    const root = await mkdtemp(join(folder, 'images-'));
    for (let i = 0; i < count; i++)
      await picture(9 + i, 9)
        .png()
        .toFile(join(root, `${i}.png`));
    const images = await openImages(root);
    await rename(root, `${root}.away`);
    await leave(root);
    await expect(brokenOf(images)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringMatching(/ENOENT.*`lgdistill resume`/u) as unknown,
    });
    await rm(root, { recursive: true, force: true });
    await rename(`${root}.away`, root);
    await rm(join(root, '3.png'));
    expect(await brokenOf(images)).toEqual(['3.png']);
  });
});

it('images that wait for a system that failed already are not waited for each in turn', async () => {
  let isDown = true;
  const images = await source(() => {
    if (isDown) throw systemError('EIO');
  });
  using streamed = await StreamedImages.open(images, { ...options, threads: 2 });
  await expect(streamed.prepare(all)).rejects.toMatchObject({ code: 'BAD_FILE' });
  expect(Math.max(...images.attempts.slice(0, 2))).toBe(4); // the first that gives up ends the batch
  expect(Math.max(...images.attempts.slice(2))).toBeLessThanOrEqual(1);
  expect(streamed.broken).toEqual([]);
  isDown = false;
  const prepared = await streamed.prepare(all);
  expect(prepared.shown).toBeUndefined();
  prepared.release();
  images.read = () => Promise.reject(systemError('EIO'));
  await expect(streamed.prepare(Int32Array.of(0))).rejects.toMatchObject({ code: 'BAD_FILE' });
});

it('a group of rows of a parquet file is read anew after an attempt that failed', async () => {
  const path = join(folder, 'rows');
  await mkdir(path);
  const file = join(path, 'a.parquet');
  await writeFile(
    file,
    Buffer.from(
      parquetWriteBuffer({
        columnData: [{ name: 'image', data: [await picture(9, 9).png().toBuffer()], type: 'BYTE_ARRAY' }],
      }),
    ),
  );
  const images = await openImages(path);
  await rename(file, join(folder, 'elsewhere'));
  await expect(images.read(0)).rejects.toMatchObject({ code: 'BAD_DATASET' });
  await rename(join(folder, 'elsewhere'), file);
  expect(await images.read(0)).toEqual(await picture(9, 9).png().toBuffer());
});
