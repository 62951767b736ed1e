import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { openImages } from '../../lib/data/open-images.js';
import { packImages, type PackOptions } from '../../lib/data/pack/pack.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { preflight } from '../../lib/train/preflight.js';
import { prepareRun } from '../../lib/train/setup.js';
import { bundleChild } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ofType, sameBits, smallConfig, train, type Outcome } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const bundle = await bundleChild('test/integration/pack-child.ts');
let data: string;
let teacher: { teacher: string; bank: string };
let runs = 0;
const output = () => join(folder, `run-${runs++}`);

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 48 });
  teacher = await madeUpTeacher(join(folder, 'made-up'));
});

async function packed(as: PackOptions['as'], shortSide?: number): Promise<string> {
  const file = join(folder, `${as}-${runs++}.pack`);
  await packImages(await openImages(data, { labels: 'auto' }), { output: file, as, shortSide });
  return file;
}

const config = (images: string, path: string, more: ConfigInput = {}): ConfigInput => ({
  ...smallConfig(images, path, {
    ...more,
    teacher: teacher.teacher,
    bank: teacher.bank,
    data: { margin: 1.25, cacheMemory: 1, ...more.data },
    evaluate: { data: images },
  }),
  names: undefined,
});

/** The bits of everything a run computed. */
function expectSame(found: Outcome, expected: Outcome, what: string): void {
  for (const [name, values] of Object.entries(expected.weights))
    expect(sameBits(found.weights[name]!, values), `${what}: ${name}`).toBe(true);
  const losses = ({ events }: Outcome) => ofType(events, 'step').map(({ loss, learningRate }) => [loss, learningRate]);
  expect(losses(found), what).toEqual(losses(expected));
}

describe('training', () => {
  it('has the same bits from a folder and its packs, decoded before or when a batch needs them', async () => {
    const whole = await train(config(data, output()));
    const raw = await packed('raw', 40); // 1.25 x 32
    const original = await packed('original');
    const ways: [string, string, ConfigInput['data']][] = [
      ['raw pack', raw, {}],
      ['pack', original, { cache: 'all' }],
      ['folder, streamed', data, { cache: 'stream', readAhead: 1 }],
      ['pack, streamed', original, { cache: 'stream', readAhead: 7 }],
    ];
    for (const [what, images, more] of ways) {
      const found = await train(config(images, output(), { data: more }));
      expectSame(found, whole, what);
      // Evaluation takes smaller images, which a raw pack reduces once more.
      if (images !== raw)
        expect(
          ofType(found.events, 'evaluation').map(({ student }) => student),
          what,
        ).toEqual(ofType(whole.events, 'evaluation').map(({ student }) => student));
    }
  });

  it('goes on to the bit after a stop, while images are streamed, and from a pack of the same images', async () => {
    const original = await packed('original');
    for (const [first, then, accumulate] of [
      [data, data, 1],
      [data, original, 1],
      [original, original, 2],
    ] as const) {
      const more = {
        data: { cache: 'stream' },
        train: { epochs: 2, warmupEpochs: 1, batchSize: 8, accumulate },
      } as const;
      const whole = await train(config(first, output(), more));
      const path = output();
      const controller = new AbortController();
      await train(config(first, path, more), {
        signal: controller.signal,
        onEvent: (event) => event.type === 'step' && event.step >= 2 && controller.abort(),
      });
      const rest = await train(config(then, path, more), { resume: 'last' });
      expect(ofType(rest.events, 'start')[0]!.step).toBeGreaterThan(0);
      for (const [name, values] of Object.entries(whole.weights))
        expect(sameBits(rest.weights[name]!, values), name).toBe(true);
    }
  });

  it('with a broken or vanished image while streaming goes on with the next one in its place, lists it, and says how fast it decodes', async () => {
    const images = await drawShapes(join(folder, 'fragile'), { count: 8, size: 48 });
    await writeFile(join(images, 'cross', '3.png'), 'no picture');
    const path = output();
    const run = config(images, path, { data: { cache: 'stream', maxBrokenShare: 0.2 } });
    await train(run, {
      onEvent: (event) =>
        void (
          event.type === 'step' &&
          event.step === 2 &&
          rename(join(images, 'circle', '5.png'), join(folder, 'elsewhere.png'))
        ),
    });
    const listed = await readFile(join(path, 'broken-images.txt'), 'utf8');
    expect(listed).toMatch(/^cross\/3\.png\t.*unsupported/mu);
    const metrics = (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
      .split('\n')
      .filter((line) => line.includes('"step"'))
      .map((line) => JSON.parse(line) as { type: string; decodeRate?: number });
    expect(metrics.filter(({ type, decodeRate }) => type === 'step' && decodeRate! > 0).length).toBeGreaterThan(3);
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toContain('cannot be decoded so far');
    await expect(
      train(config(images, output(), { data: { cache: 'stream', maxBrokenShare: 0.01 } })),
    ).rejects.toMatchObject({ code: 'TOO_MANY_BROKEN_IMAGES' });
  });

  it('is measured before it begins, whatever its images come from', async () => {
    for (const [images, more] of [
      [data, { cache: 'stream' }],
      [await packed('raw', 40), {}],
    ] as const) {
      const run = await prepareRun(config(images, output(), { data: more }));
      try {
        expect(await preflight(run.distiller, run.dataset, { seconds: 0.1 })).toMatchObject({
          type: 'preflight',
          steps: 8,
        });
      } finally {
        await run.dispose();
      }
    }
  });

  it('stops at damaged pixels of a raw pack, and names the image', async () => {
    const file = await packed('raw', 40);
    const { index } = await PackFile.open(file);
    const bytes = await readFile(file);
    bytes[index.offsets[11]! + 100]! ^= 1;
    await writeFile(file, bytes);
    await expect(train(config(file, output()))).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(index.ids[11]!) as string,
    });
  });
});

/** Pictures of noise, which fill a disk. */
async function packNoise(count: number, name: string): Promise<string> {
  const noise = (i: number) =>
    Buffer.from(Uint8Array.from({ length: 256 * 192 * 3 }, (_, at) => (at * (i + 7) * 2654435761) >>> 24));
  const pictures = await Promise.all(
    Array.from({ length: 60 }, async (_, i) =>
      sharp(noise(i), { raw: { width: 256, height: 192, channels: 3 } })
        .jpeg()
        .toBuffer(),
    ),
  );
  const file = join(folder, name);
  await packImages(
    imagesFromBuffers(Array.from({ length: count }, (_, i) => ({ id: `${i}`, bytes: pictures[i % pictures.length]! }))),
    { output: file },
  );
  return file;
}

describe('killing a process that packs', () => {
  /** Packs in a child, which may kill itself. Returns its exit code; null where it did. */
  function packChild(source: string, file: string, as: string, ...kill: readonly number[]): number | null {
    const args = [bundle, source, file, as, '0', ...kill.map(String)];
    return spawnSync(process.execPath, args, {
      env: { ...process.env, LGDISTILL_ADDON: addonPath() },
      stdio: ['ignore', 'ignore', 'inherit'],
    }).status;
  }

  it('at any moment leaves nothing that opens as a pack; the next one ends with the file of a whole run', async () => {
    const count = 120;
    const source = await packNoise(count, 'killed-source.pack');
    for (const [round, as] of (['original', 'raw', 'jpeg'] as const).entries()) {
      const whole = join(folder, `whole-${as}.pack`);
      expect(packChild(source, whole, as)).toBe(0);
      const file = join(folder, `killed-${as}.pack`);
      let kills = 0;
      let journal = 0;
      for (const [killAt, delay] of [
        [0, 0],
        [1, 0],
        [count / 3, 0],
        [0, 0],
        [count / 2, 1 + 3 * round], // it may be quicker
        [count, 0],
        [count, 2],
      ] as const) {
        if (packChild(source, file, as, killAt, delay) === null) kills++;
        if (!existsSync(file)) {
          const length = existsSync(`${file}.journal`) ? (await readFile(`${file}.journal`)).byteLength : 0;
          expect(length).toBeGreaterThanOrEqual(journal); // it goes on, it does not begin anew
          journal = length;
          continue;
        }
        expect((await readFile(file)).equals(await readFile(whole))).toBe(true); // it was quicker
        break;
      }
      expect(kills).toBeGreaterThan(2);
      expect(journal).toBeGreaterThan(1000);
      if (!existsSync(file)) {
        const opened = await PackFile.open(`${file}.part`).catch((error: unknown) => error);
        // Only one that lacks nothing but its name opens.
        if (opened instanceof PackFile)
          expect((await readFile(`${file}.part`)).equals(await readFile(whole))).toBe(true);
        else expect(opened).toMatchObject({ code: 'BAD_FILE' });
        expect(packChild(source, file, as)).toBe(0);
      }
      expect((await readFile(file)).equals(await readFile(whole)), as).toBe(true);
      expect(await (await PackFile.open(file)).verify()).toEqual([]);
    }
  });
});

describe('a file that may grow no further', () => {
  const imageBytes = 85 * 64 * 3;
  const most = 64; // images in a mebibyte

  /** Packs in a child, with files of so many KiB at most; which images it found packed, and how it ended. */
  function packWithin(
    kibibytes: number | 'unlimited',
    source: string,
    file: string,
    seconds: number,
  ): { first: number; status: number | null; stderr: string } {
    const command = [
      '-c',
      `ulimit -f ${kibibytes} && exec "$0" "$@"`,
      process.execPath,
      bundle,
      source,
      file,
      'raw',
      String(seconds),
    ];
    const { stdout, stderr, status } = spawnSync('bash', command, {
      env: { ...process.env, LGDISTILL_ADDON: addonPath() },
      encoding: 'utf8',
    });
    return { first: Number(stdout.split('\n')[0]), status, stderr };
  }

  it('keeps what its journal tells of: the next call goes on there and ends with the file of a whole run', async () => {
    const source = await packNoise(360, 'limited-source.pack');
    const whole = join(folder, 'limited-whole.pack');
    expect(packWithin('unlimited', source, whole, 5)).toMatchObject({ status: 0 });
    for (const seconds of [0, 5]) {
      // an image a write; a write of many images
      const file = join(folder, `limited-${seconds}.pack`);
      const kept = seconds === 0 ? most : 0; // of what was packed within so many seconds nothing need be left
      for (const found of [0, kept]) {
        const { first, status, stderr } = packWithin(1024, source, file, seconds);
        expect({ first, status }).toEqual({ first: found, status: 1 });
        expect(stderr).toContain('files may not grow that large there. Raise the limit');
        expect((await readFile(`${file}.part`)).byteLength).toBeLessThanOrEqual(2 ** 20);
        // its task, and what follows its last line
        expect((await readFile(`${file}.journal`, 'utf8')).split('\n')).toHaveLength(2 + kept);
      }
      expect(packWithin('unlimited', source, file, seconds)).toMatchObject({ first: kept, status: 0 });
      expect((await readFile(file)).equals(await readFile(whole))).toBe(true);
    }
    expect(Math.floor((2 ** 20 - 64) / imageBytes)).toBe(most);
  });
});
