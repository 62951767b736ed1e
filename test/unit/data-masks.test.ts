import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { classesOf, openMaskFolder } from '../../lib/data/mask-folders.js';
import { readPngMask } from '../../lib/data/png-mask.js';
import { asUser } from '../fixtures/folder.js';
import { encodePng, pngChunk } from '../fixtures/png.js';
import { randomNumbers } from '../fixtures/random.js';
import { plainPicture } from '../fixtures/tiny.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgdistill-masks-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe('a PNG mask', () => {
  const random = randomNumbers(2);

  it.each([
    [0, 1],
    [0, 2],
    [0, 4],
    [0, 8],
    [0, 16],
    [3, 1],
    [3, 2],
    [3, 4],
    [3, 8],
  ])('of colour type %i and %i bits keeps its numbers', async (colour, bits) => {
    for (const [width, height] of [
      [13, 11],
      [1, 1],
      [64, 7],
    ] as const) {
      const values = Array.from({ length: width * height }, () => Math.floor(random() * 2 ** bits));
      const mask = await readPngMask(encodePng({ width, height, bits, colour, values }), 'mask.png');
      expect([mask.width, mask.height]).toEqual([width, height]);
      expect(Array.from(mask.labels)).toEqual(values);
    }
  });

  it('is read as libvips writes it', async () => {
    const labels = Uint8Array.from({ length: 40 * 30 }, (_, i) => (i * i) % 7);
    const png = await sharp(labels, { raw: { width: 40, height: 30, channels: 1 } })
      .toColourspace('b-w')
      .png({ compressionLevel: 9, adaptiveFiltering: true })
      .toBuffer();
    expect(Array.from((await readPngMask(png, 'x')).labels)).toEqual(Array.from(labels));
  });

  const grey = (values: number[], size = 2) => encodePng({ width: size, height: size, bits: 8, colour: 0, values });
  /** With other bytes from a place on. */
  const changed = (png: Buffer, at: number, ...bytes: number[]) =>
    Buffer.concat([png.subarray(0, at), Buffer.from(bytes), png.subarray(at + bytes.length)]);
  const square = grey([1, 2, 3, 4]);
  const pixels = square.indexOf('IDAT') - 4;

  it.each([
    ['a short header', changed(square, 8, 0, 0, 0, 3), 'header is too short'],
    ['of no pixels', Buffer.concat([square.subarray(0, pixels), square.subarray(-12)]), 'no pixels'],
    ['of no height', changed(square, 20, 0, 0, 0, 0), 'says 2 x 0 pixels of 8 bits'],
    ['of 3 bits', changed(square, 24, 3), 'pixels of 3 bits'],
    ['of fewer rows than it says', changed(square, 20, 0, 0, 0, 3), 'fewer rows'],
    ['of pixels that do not unpack', changed(square, pixels + 8, 0xff, 0xff), 'cannot be unpacked'],
    [
      'of an unknown filter',
      Buffer.concat([square.subarray(0, pixels), pngChunk('IDAT', deflateSync(Buffer.from([0, 1, 2, 9, 3, 4])))]),
      'row 1 has filter 9',
    ],
    [
      'of far more bytes than it says',
      Buffer.concat([
        square.subarray(0, pixels),
        pngChunk('IDAT', deflateSync(Buffer.alloc(2 ** 20))),
        square.subarray(-12),
      ]),
      'cannot be unpacked (Cannot create a Buffer larger than',
    ],
    ['colours', encodePng({ width: 2, height: 2, bits: 8, colour: 2, values: [1, 2, 3, 4] }), 'colours'],
    [
      'an interlaced file',
      encodePng({ width: 2, height: 2, bits: 8, colour: 0, values: [1, 2, 3, 4], interlace: 1 }),
      'interlaced',
    ],
    [
      'half a file',
      encodePng({
        width: 20,
        height: 20,
        bits: 8,
        colour: 0,
        values: Array.from({ length: 400 }, () => Math.floor(256 * random())),
      }).subarray(0, 200),
      'ends in the middle',
    ],
    ['a JPEG', Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0]), 'not a PNG'],
  ])('that is %s is refused', async (_, bytes, message) => {
    await expect(readPngMask(bytes, 'm.png')).rejects.toMatchObject({
      code: 'BAD_IMAGE',
      message: expect.stringContaining(message) as string,
    });
  });
});

async function put(path: string, content: Buffer | string): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  await writeFile(join(folder, path), content);
}
const picture = () => plainPicture('#888', 4, 2);
const mask = (values: number[]) => encodePng({ width: 4, height: 2, bits: 8, colour: 0, values });

/** What errors call the folder and its part. */
const named = { option: 'dense.data', splitOption: 'dense.split' };

describe('a folder of masks', () => {
  it('in pairs: classes.txt, and splits where there are any', async () => {
    await put('pairs/images/a/x.png', await picture());
    await put('pairs/masks/a/x.png', mask([0, 1, 1, 0, 255, 0, 0, 0]));
    await put('pairs/classes.txt', 'ground\nthing\n');
    const set = await openMaskFolder(join(folder, 'pairs'), { ...named, split: 'train' });
    expect(set).toMatchObject({
      layout: 'pairs',
      names: ['ground', 'thing'],
      divided: false,
      pairs: [{ image: 'images/a/x.png', mask: 'masks/a/x.png' }],
    });
    expect(Array.from(classesOf(set, Uint8Array.from([0, 1, 255]), 'm'))).toEqual([0, 1, -1]);
    expect(() => classesOf(set, Uint8Array.from([0, 2]), 'masks/a/x.png')).toThrow(
      expect.objectContaining({ code: 'BAD_DATASET', found: 2 }),
    );
    await put('split/images/val/x.png', await picture());
    await put('split/masks/val/x.png', mask([0, 0, 0, 0, 0, 0, 0, 0]));
    expect(await openMaskFolder(join(folder, 'split'), { ...named, split: 'val', names: ['one'] })).toMatchObject({
      divided: true,
      pairs: [{ image: 'images/val/x.png' }],
    });
    await put('pairs/images/a/y.png', await picture());
    await expect(openMaskFolder(join(folder, 'pairs'), { ...named, split: 'train' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringContaining('images/a/y.png') as string,
    });
    await expect(openMaskFolder(join(folder, 'split'), { ...named, split: 'val' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      option: 'names',
    });
  });

  it('like Cityscapes: labelIds to the 19 classes, or trainIds as they are', async () => {
    await put('city/leftImg8bit/val/ulm/ulm_0_leftImg8bit.png', await picture());
    await put('city/gtFine/val/ulm/ulm_0_gtFine_labelIds.png', mask([7, 8, 26, 0, 0, 0, 0, 0]));
    const set = await openMaskFolder(join(folder, 'city'), { ...named, split: 'val' });
    expect(set).toMatchObject({ layout: 'cityscapes', pairs: [{ mask: 'gtFine/val/ulm/ulm_0_gtFine_labelIds.png' }] });
    const labels = classesOf(set, Uint8Array.from([7, 8, 26, 33, 0, 4]), 'm');
    expect(Array.from(labels, (label) => set.names[label] ?? null)).toEqual([
      'road',
      'sidewalk',
      'car',
      'bicycle',
      null,
      null,
    ]);
    await put('city/gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png', mask([0, 1, 13, 255, 0, 0, 0, 0]));
    const converted = await openMaskFolder(join(folder, 'city'), { ...named, split: 'val' });
    expect(Array.from(classesOf(converted, Uint8Array.from([0, 13, 255]), 'm'))).toEqual([0, 13, -1]);
    await expect(openMaskFolder(join(folder, 'city'), { ...named, split: 'train' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
  });

  it('like ADE20K: 1 is the first of 150, 0 is ignored', async () => {
    await put('ade/images/validation/a.jpg', await picture());
    await put('ade/annotations/validation/a.png', mask([0, 1, 150, 0, 0, 0, 0, 0]));
    const set = await openMaskFolder(join(folder, 'ade'), { ...named, split: 'val' });
    expect([set.layout, set.names.length]).toEqual(['ade20k', 150]);
    expect(Array.from(classesOf(set, Uint8Array.from([0, 1, 150]), 'm'))).toEqual([-1, 0, 149]);
    const ofAnotherSet = { code: 'BAD_DATASET', found: 151, allowed: '0 to 150, and 255 for pixels to be ignored' };
    expect(() => classesOf(set, Uint8Array.from([1, 151]), 'm')).toThrow(expect.objectContaining(ofAnotherSet));
  });

  it('like VOC: background and 20 classes, the list says which images', async () => {
    await put('voc/JPEGImages/2007_1.jpg', await picture());
    await put('voc/SegmentationClass/2007_1.png', mask([0, 15, 255, 0, 0, 0, 0, 0]));
    await put('voc/ImageSets/Segmentation/val.txt', '2007_1\n');
    const set = await openMaskFolder(join(folder, 'voc'), { ...named, split: 'val' });
    expect([set.layout, set.names.length, set.names[0], set.names[15]]).toEqual(['voc', 21, 'background', 'person']);
    await expect(openMaskFolder(join(folder, 'voc'), { ...named, split: 'train' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
  });

  it('whose masks may not be read is not taken for one without masks', async () => {
    await put('closed/images/a/x.png', await picture());
    await put('closed/masks/a/x.png', mask([0, 1, 1, 0, 0, 0, 0, 0]));
    await put('closed/classes.txt', 'ground\nthing\n');
    await chmod(folder, 0o755);
    await chmod(join(folder, 'closed/masks/a'), 0o700);
    await asUser(() =>
      expect(openMaskFolder(join(folder, 'closed'), { ...named, split: 'train' })).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining('closed/masks/a') as string,
      }),
    );
  });

  it('of no known layout is refused', async () => {
    await put('nothing/x.txt', '');
    await expect(openMaskFolder(join(folder, 'nothing'), { ...named, split: 'val' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      option: 'dense.data',
    });
    await put('coco/annotations/instances_train2017.json', '{}'); // boxes
    await expect(openMaskFolder(join(folder, 'coco'), { ...named, split: 'train' })).rejects.toMatchObject({
      code: 'BAD_DATASET',
      allowed: expect.stringContaining('images and annotations (ADE20K)') as string,
    });
    await expect(openMaskFolder(join(folder, 'absent'), { ...named, split: 'val' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
  });

  it.each([
    [
      'pairs',
      [
        'images/train/x.png',
        'masks/train/x.png',
        'images/test/y.png',
        'masks/test/y.png',
        'images/sketches/z.png',
        'masks/sketches/z.png',
      ],
      'images',
      'test, train',
    ],
    [
      'cityscapes',
      [
        'leftImg8bit/train/ulm/ulm_0_leftImg8bit.png',
        'gtFine/train/ulm/ulm_0_gtFine_labelIds.png',
        'leftImg8bit/test/bonn/x.png',
      ],
      'leftImg8bit',
      'test, train',
    ],
    [
      'ade20k',
      ['images/training/a.jpg', 'annotations/training/a.png', 'images/test/b.jpg'],
      'images',
      'test, training',
    ],
    [
      'voc',
      ['SegmentationClass/x.png', 'ImageSets/Segmentation/train.txt', 'ImageSets/Segmentation/test.txt'],
      'ImageSets/Segmentation',
      'test, train',
    ],
  ])(
    'like %s without the split asked for is refused, and says which there are',
    async (layout, files, place, allowed) => {
      const root = join(folder, `parts-${layout}`);
      for (const file of files) await put(`parts-${layout}/${file}`, '');
      const options = { ...named, splitOption: 'dense.evaluationSplit', names: ['one'] };
      await expect(openMaskFolder(root, { ...options, split: 'val' })).rejects.toMatchObject({
        code: 'FILE_NOT_FOUND',
        option: 'dense.evaluationSplit',
        found: 'val',
        allowed,
        message: expect.stringContaining(`${join(root, place)} has no part of this name`) as string,
      });
      await expect(openMaskFolder(root, { ...options, split: 'tset' })).rejects.toMatchObject({
        code: 'FILE_NOT_FOUND',
        mend: 'Did you mean test?',
      });
    },
  );

  it('in pairs that is not divided is whole, unless a part of it is asked for', async () => {
    for (const name of ['images/trains/x.png', 'images/y.png', 'masks/trains/x.png', 'masks/y.png'])
      await put(`whole/${name}`, '');
    const options = { ...named, names: ['one'] };
    for (const split of ['train', 'val'])
      expect(await openMaskFolder(join(folder, 'whole'), { ...options, split })).toMatchObject({
        divided: false,
        pairs: { length: 2 },
      });
    await expect(openMaskFolder(join(folder, 'whole'), { ...options, split: 'test' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'dense.split',
      allowed: 'trains',
    });
    for (const name of ['images/y.png', 'masks/y.png']) await put(`flat/${name}`, '');
    await expect(openMaskFolder(join(folder, 'flat'), { ...options, split: 'test' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'dense.split',
      mend: expect.stringContaining('not divided') as string,
    });
  });

  it('in pairs has at most 255 classes, as 255 means none, and says what may stand in its masks', async () => {
    const names = (count: number) => Array.from({ length: count }, (_, i) => `class ${i}`);
    const options = { ...named, split: 'train' };
    for (const name of ['images/x.png', 'masks/x.png']) await put(`many/${name}`, '');
    await expect(openMaskFolder(join(folder, 'many'), { ...options, names: names(256) })).rejects.toMatchObject({
      code: 'BAD_NAMES',
      option: 'names',
      found: 256,
      allowed: '1 to 255 names',
    });
    const set = await openMaskFolder(join(folder, 'many'), { ...options, names: names(255) });
    expect(Array.from(classesOf(set, Uint16Array.from([0, 254, 255]), 'm'))).toEqual([0, 254, -1]);
    expect(() => classesOf(set, Uint16Array.from([270]), 'm')).toThrow(
      expect.objectContaining({ found: 270, allowed: '0 to 255' }),
    );
    const three = await openMaskFolder(join(folder, 'many'), { ...options, names: names(3) });
    expect(() => classesOf(three, Uint8Array.from([3]), 'm')).toThrow(
      expect.objectContaining({ allowed: '0 to 2, and 255 for pixels to be ignored' }),
    );
  });

  it('is called by the option that it was given as', async () => {
    await put('bare/images/x.png', await picture());
    await put('bare/masks/y.png', '');
    await put('unlisted/SegmentationClass/x.png', '');
    for (const name of ['absent', 'nothing', 'bare', 'unlisted']) {
      await expect(
        openMaskFolder(join(folder, name), { ...named, option: 'dense.evaluationData', split: 'val', names: ['one'] }),
        name,
      ).rejects.toMatchObject({ option: 'dense.evaluationData' });
    }
  });
});
