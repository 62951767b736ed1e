import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { openMaskFolder } from '../../lib/data/mask-folders.js';
import { boxesInside, readBoxed } from '../../lib/dense/box-samples.js';
import { checkLabelled, readPair } from '../../lib/dense/mask-samples.js';
import { decodePart, imageSize } from '../../lib/dense/pixels.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { encodePng } from '../fixtures/png.js';
import { randomNumbers } from '../fixtures/random.js';
import { plainPicture } from '../fixtures/tiny.js';

const folder = temporaryFolder();
async function put(path: string, content: Buffer | string): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  await writeFile(join(folder, path), content);
}
const mask = (width: number, height: number, value: number) =>
  encodePng({ width, height, bits: 8, colour: 0, values: new Uint8Array(width * height).fill(value) });
const opened = (name: string, names = ['ground', 'thing']) =>
  openMaskFolder(join(folder, name), { option: 'dense.data', splitOption: 'dense.split', split: 'train', names });

/** A picture of 12 x 8 pixels whose file is turned so that viewers turn it back. */
async function turned(orientation: number): Promise<{ upright: Buffer; stored: Buffer }> {
  const random = randomNumbers(7);
  const upright = Buffer.from(Array.from({ length: 12 * 8 * 3 }, () => Math.floor(256 * random())));
  const quarters = { 5: 90, 6: 270, 7: 270, 8: 90 }[orientation] ?? 0;
  const rotated = await sharp(upright, { raw: { width: 12, height: 8, channels: 3 } })
    .rotate(quarters)
    .png()
    .toBuffer();
  const image = sharp(rotated).flop([2, 3, 5, 7].includes(orientation)).flip([3, 4].includes(orientation));
  return { upright, stored: await image.withMetadata({ orientation }).png().toBuffer() };
}

describe('an image whose EXIF turns it', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('is looked at as viewers show it (orientation %i)', async (orientation) => {
    const { upright, stored } = await turned(orientation);
    expect(await imageSize(stored, 'x')).toEqual({ width: 12, height: 8 });
    const part = { x: 3, y: 1, width: 7, height: 5 };
    const wanted = await sharp(upright, { raw: { width: 12, height: 8, channels: 3 } })
      .extract({ left: 3, top: 1, width: 7, height: 5 })
      .raw()
      .toBuffer();
    expect(Buffer.from(await decodePart(stored, part, { width: 7, height: 5 }, 'x'))).toEqual(wanted);
  });

  it('has masks and boxes of that size, and those of the other are told why', async () => {
    const { stored } = await turned(6);
    await put('turned/images/x.png', stored);
    await put('turned/masks/x.png', mask(12, 8, 1));
    expect(await readPair(await opened('turned'), 0)).toMatchObject({ width: 12, height: 8 });
    const why = (message: string) => ({ code: 'BAD_DATASET', message: expect.stringContaining(message) as unknown });
    await put('turned/masks/x.png', mask(8, 12, 1));
    await expect(readPair(await opened('turned'), 0)).rejects.toMatchObject(
      why(
        'has 8 x 12 pixels, its image 12 x 8, as its EXIF orientation (6) turns it. Annotate the image as viewers show it',
      ),
    );
    await put('turned/masks/x.png', mask(8, 11, 1));
    await expect(readPair(await opened('turned'), 0)).rejects.toMatchObject(
      why('has 8 x 11 pixels, its image 12 x 8. Give each image a mask of its own size'),
    );
    // what it packs is not looked at: a file that says 16384 x 16384 may unpack to a gigabyte
    const packed = mask(8, 11, 1);
    packed.fill(0xff, packed.indexOf('IDAT') + 4, packed.indexOf('IDAT') + 8);
    await put('turned/masks/x.png', packed);
    await expect(readPair(await opened('turned'), 0)).rejects.toMatchObject(why('has 8 x 11 pixels, its image 12 x 8'));

    const entry = { id: 1, file: 'images/x.png', annotations: [] };
    const boxes = {
      folder: join(folder, 'turned'),
      set: { names: [], categoryIds: [], images: [] },
      options: { folder: 'dense.data', annotations: 'dense.annotations' },
    };
    expect((await readBoxed(boxes, { ...entry, width: 12, height: 8 })).image).toEqual(stored);
    await expect(readBoxed(boxes, { ...entry, width: 8, height: 12 })).rejects.toMatchObject({
      ...why('has 12 x 8 pixels, as its EXIF orientation (6) turns it, the annotations say 8 x 12.'),
      option: 'dense.annotations',
    });
  });
});

describe('what to train on', () => {
  it('has a mask with a pixel of a class', async () => {
    const image = await plainPicture('#888', 4, 2);
    for (const name of ['0', '1']) {
      await put(`ignored/images/${name}.png`, image);
      await put(`ignored/masks/${name}.png`, mask(4, 2, 255));
    }
    const set = await opened('ignored');
    const why = 'dense.evaluationData: no pixel has a class: all of the 2 masks';
    await expect(checkLabelled(set, 'dense.evaluationData', undefined)).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining(why) as unknown,
    });
    await expect(checkLabelled(set, 'dense.data', AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
    await put('ignored/masks/1.png', mask(4, 2, 1));
    await checkLabelled(set, 'dense.data', undefined);
  });

  it('has a box of an object', () => {
    const boxes = (
      ...annotations: { crowd: boolean; box: [number, number, number, number] }[]
    ): Parameters<typeof boxesInside>[0] => ({
      folder,
      options: { folder: 'dense.data', annotations: 'dense.annotations' },
      set: {
        names: ['a'],
        categoryIds: [1],
        images: [
          {
            id: 1,
            file: 'x',
            width: 9,
            height: 9,
            annotations: annotations.map((annotation) => ({ ...annotation, label: 0, area: 1 })),
          },
        ],
      },
    });
    type Given = Parameters<typeof boxes>[0];
    const crowd: Given = { crowd: true, box: [0, 0, 5, 5] };
    const flat: Given = { crowd: false, box: [0, 0, 5, 0] };
    expect(() => boxesInside(boxes())).toThrow(
      expect.objectContaining({ code: 'BAD_DATASET', option: 'dense.annotations' }),
    );
    expect(() => boxesInside(boxes(crowd, crowd, flat))).toThrow('there are 2 crowds, and 1 box without an area');
    const object = (...box: Given['box']): Given => ({ crowd: false, box });
    const outside = [object(9, 0, 3, 3), object(0, -4, 3, 4), object(20, 20, 5, 5)];
    expect(() => boxesInside(boxes(...outside))).toThrow('there are 0 crowds, and 3 boxes without an area or outside');
    const whole = boxes(crowd, object(0, 0, 1, 5), object(-0.5, 2, 9.8, 7.5));
    const left = (given: ReturnType<typeof boxes>) => {
      const { inside, remarks } = boxesInside(given);
      return [inside.set.images[0]!.annotations.map(({ box }) => box), remarks];
    };
    expect(left(whole)).toEqual([
      [
        [0, 0, 5, 5],
        [0, 0, 1, 5],
        [0, 2, 9, 7],
      ],
      [],
    ]);
    expect(left(boxes(...outside, flat, object(-3, 1, 5, 20), { crowd: true, box: [7, 7, 5, 1] }))).toEqual([
      [
        [0, 1, 2, 8],
        [7, 7, 2, 1],
      ],
      [
        '4 boxes are left out: without an area, or outside of the image',
        "2 boxes end at the image's edge instead of beyond it",
      ],
    ]);
  });
});
