import sharp, { type Sharp } from 'sharp';
import { describe, expect, it } from 'vitest';
import { decodeImage, type DecodedImage } from '../../lib/data/decode.js';
import { imageSize } from '../../lib/dense/pixels.js';
import { brokenFiles, halves, picture, type Rgb } from '../fixtures/images/draw.js';

const red: Rgb = [200, 40, 40];
const green: Rgb = [40, 180, 60];
const blue: Rgb = [30, 50, 210];

function pixel({ width, height, pixels }: DecodedImage, x: number, y: number): number[] {
  const at = (Math.floor(y * height) * width + Math.floor(x * width)) * 3;
  return [...pixels.subarray(at, at + 3)];
}

function expectNear(found: readonly number[], expected: Rgb | readonly number[], tolerance: number): void {
  expect(
    Math.max(...found.map((value, i) => Math.abs(value - expected[i]!))),
    `${found.join()} against ${expected.join()}`,
  ).toBeLessThanOrEqual(tolerance);
}

/** Upper left, lower left, right. */
function expectPicture(
  image: DecodedImage,
  tolerance: number,
  colours: readonly (readonly number[])[] = [blue, red, green],
): void {
  expectNear(pixel(image, 0.2, 0.2), colours[0]!, tolerance);
  expectNear(pixel(image, 0.2, 0.8), colours[1]!, tolerance);
  expectNear(pixel(image, 0.8, 0.5), colours[2]!, tolerance);
}

describe('formats', () => {
  const formats: [string, (image: Sharp) => Sharp, number][] = [
    ['jpeg', (image) => image.jpeg({ quality: 95 }), 4],
    ['progressive jpeg', (image) => image.jpeg({ quality: 95, progressive: true }), 4],
    ['png', (image) => image.png(), 1],
    ['palette png', (image) => image.png({ palette: true }), 3],
    ['webp', (image) => image.webp({ lossless: true }), 1],
    ['avif', (image) => image.avif({ quality: 90 }), 6],
    ['tiff', (image) => image.tiff(), 4],
    ['gif', (image) => image.gif(), 4],
  ];
  it.each(formats)('%s', async (_name, encode, tolerance) => {
    const image = await decodeImage(await encode(picture(64, 48)).toBuffer(), { shortSide: 24 });
    expect([image.width, image.height, image.pixels.length]).toEqual([32, 24, 32 * 24 * 3]);
    expectPicture(image, tolerance);
  });

  it('svg, drawn at the size asked for', async () => {
    const svg =
      '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><rect width="4" height="2" fill="#c82828"/><rect x="2" width="2" height="2" fill="#28b43c"/></svg>';
    for (const attributes of ['', ' width="8" height="4"', ' width="4000" height="2000"']) {
      const image = await decodeImage(Buffer.from(svg.replace(' viewBox', `${attributes} viewBox`)), {
        shortSide: 100,
      });
      expect([image.width, image.height]).toEqual([200, 100]);
      expect(pixel(image, 0.485, 0.5)).toEqual([...red]); // a sharp edge: drawn, not enlarged
      expect(pixel(image, 0.515, 0.5)).toEqual([...green]);
    }
  });

  it('no floating-point pixels, which would all come out black', async () => {
    const entries = [
      [256, 2],
      [257, 2],
      [258, 32],
      [259, 1],
      [262, 1],
      [273, 8],
      [277, 1],
      [278, 2],
      [279, 16],
      [339, 3],
    ];
    const tiff = Buffer.alloc(8 + 16 + 2 + 12 * entries.length + 4);
    tiff.write('II*\0', 'latin1');
    tiff.writeUInt32LE(24, 4);
    for (let i = 0; i < 4; ++i) tiff.writeFloatLE(0.5, 8 + 4 * i);
    tiff.writeUInt16LE(entries.length, 24);
    entries.forEach(([tag, value], i) => {
      tiff.writeUInt16LE(tag!, 26 + 12 * i);
      tiff.writeUInt16LE(4, 28 + 12 * i); // 32-bit
      tiff.writeUInt32LE(1, 30 + 12 * i);
      tiff.writeUInt32LE(value!, 34 + 12 * i);
    });
    await expect(decodeImage(tiff, { shortSide: 2 })).rejects.toMatchObject({
      code: 'BAD_IMAGE',
      message: expect.stringContaining('of type float') as string,
    });
  });

  it('the first frame of an animated gif', async () => {
    const frames = [
      [200, 40, 40],
      [40, 180, 60],
      [30, 50, 210],
    ].map((colour) => ({
      create: { width: 20, height: 20, channels: 3 as const, background: `rgb(${colour.join()})` },
    }));
    const still = await Promise.all(frames.map((frame) => sharp(frame).png().toBuffer()));
    const gif = await sharp(still, { join: { animated: true } })
      .gif({ delay: [100, 100, 100] })
      .toBuffer();
    expect((await sharp(gif).metadata()).pages).toBe(3);
    const image = await decodeImage(gif, { shortSide: 20 });
    expect([image.width, image.height]).toEqual([20, 20]);
    expectNear(pixel(image, 0.5, 0.5), red, 2);
  });
});

describe('colours', () => {
  it('converts CMYK', async () => {
    const dull = [
      [90, 100, 150],
      [160, 90, 80],
      [100, 140, 100],
    ] as const; // inks reach these
    const jpeg = await picture(64, 64, dull[1], dull[2], dull[0])
      .toColourspace('cmyk')
      .jpeg({ quality: 95 })
      .toBuffer();
    expect((await sharp(jpeg).metadata()).space).toBe('cmyk');
    expectPicture(await decodeImage(jpeg, { shortSide: 32 }), 15, dull);
  });

  it('spreads greyscale over three channels', async () => {
    const jpeg = await picture(40, 40, [50, 50, 50], [220, 220, 220], [120, 120, 120])
      .toColourspace('b-w')
      .jpeg({ quality: 95 })
      .toBuffer();
    expect((await sharp(jpeg).metadata()).channels).toBe(1);
    expectPicture(await decodeImage(jpeg, { shortSide: 40 }), 3, [
      [120, 120, 120],
      [50, 50, 50],
      [220, 220, 220],
    ]);
  });

  it.each([
    ['rgb16', 3],
    ['grey16', 1],
  ])('reduces 16 bits to 8: %s', async (space, channels) => {
    const level = Uint16Array.from({ length: 16 * 16 * channels }, () => 0x8040);
    const png = await sharp(level, { raw: { width: 16, height: 16, channels: channels as 1 | 3 } })
      .toColourspace(space)
      .png()
      .toBuffer();
    expect((await sharp(png).metadata()).depth).toBe('ushort');
    expectNear(pixel(await decodeImage(png, { shortSide: 16 }), 0.5, 0.5), [128, 128, 128], 1);
  });

  it('lays transparent pixels on white, or on the colour asked for', async () => {
    const rgba = await picture(20, 20).ensureAlpha(0).png().toBuffer();
    expect(pixel(await decodeImage(rgba, { shortSide: 20 }), 0.5, 0.5)).toEqual([255, 255, 255]);
    expect(pixel(await decodeImage(rgba, { shortSide: 10, background: '#102030' }), 0.5, 0.5)).toEqual([16, 32, 48]);
  });

  it('handles grey with alpha', async () => {
    const pixels = Buffer.from(Uint8Array.from({ length: 20 * 20 * 2 }, (_, i) => (i % 2 === 0 ? 100 : 128)));
    const png = await sharp(pixels, { raw: { width: 20, height: 20, channels: 2 } })
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect((await sharp(png).metadata()).channels).toBe(2);
    // 100 * 0.502 + 255 * 0.498
    expectNear(pixel(await decodeImage(png, { shortSide: 20 }), 0.5, 0.5), [177, 177, 177], 1);
  });
});

describe('geometry', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('applies EXIF orientation %i', async (orientation) => {
    // Stored the other way round, so that each orientation shows the same picture.
    const quarters = { 5: 90, 6: 270, 7: 270, 8: 90 }[orientation] ?? 0;
    const turned = sharp(await picture(64, 48).rotate(quarters).png().toBuffer());
    if ([2, 3, 5, 7].includes(orientation)) turned.flop();
    if ([3, 4].includes(orientation)) turned.flip();
    const stored = await turned.withMetadata({ orientation }).jpeg({ quality: 95 }).toBuffer();
    const image = await decodeImage(stored, { shortSide: 24 });
    expect([image.width, image.height]).toEqual([32, 24]);
    expectPicture(image, 5);
  });

  it('never enlarges', async () => {
    const one = await decodeImage(await picture(1, 1, red, green, green).png().toBuffer(), { shortSide: 64 });
    expect(one).toMatchObject({ width: 1, height: 1 });
    expect([...one.pixels]).toEqual([...green]);
    expect(await decodeImage(await picture(9, 5).png().toBuffer(), { shortSide: 64 })).toMatchObject({
      width: 9,
      height: 5,
    });
  });

  it('keeps the middle of very long images', async () => {
    const [width, height] = [3000, 30];
    const strip = halves(width, height, red, green);
    const wide = await decodeImage(
      await sharp(strip, { raw: { width, height, channels: 3 } })
        .png()
        .toBuffer(),
      { shortSide: 16 },
    );
    expect([wide.width, wide.height]).toEqual([64, 16]);
    expectNear(pixel(wide, 0.3, 0.5), red, 1);
    expectNear(pixel(wide, 0.7, 0.5), green, 1);
    const line = await decodeImage(
      await sharp(strip, { raw: { width, height, channels: 3 } })
        .rotate(90)
        .extract({ left: 0, top: 0, width: 1, height: 3000 })
        .png()
        .toBuffer(),
      { shortSide: 16 },
    );
    expect([line.width, line.height]).toEqual([1, 4]);
  });

  it('takes sides up to 65535 pixels, beyond which an image of few pixels takes gigabytes', async () => {
    const line = async (width: number) =>
      sharp({ create: { width, height: 2, channels: 3, background: '#fff' } })
        .png()
        .toBuffer();
    expect(await decodeImage(await line(65_535), { shortSide: 1 })).toMatchObject({ width: 4, height: 1 });
    const longer = await line(65_536);
    const refused = {
      code: 'BAD_IMAGE',
      message: expect.stringContaining('it says 65536 x 2 pixels; a side may have 65535') as string,
    };
    await expect(decodeImage(longer, { shortSide: 1 })).rejects.toMatchObject(refused);
    await expect(imageSize(longer, 'line.png')).rejects.toMatchObject(refused);
  });

  it('reduces large JPEGs without a shift', async () => {
    const image = await decodeImage(await picture(1024, 1024).jpeg({ quality: 95 }).toBuffer(), { shortSide: 64 });
    expect([image.width, image.height]).toEqual([64, 64]);
    expectNear(pixel(image, 30.5 / 64, 0.8), red, 12);
    expectNear(pixel(image, 33.5 / 64, 0.8), green, 12);
  });
});

describe('kinds that nothing here decodes', () => {
  it.each([
    ['HEIC', '\0\0\0\x18ftypheic\0\0\0\0mif1heic'],
    ['JPEG XL', '\xff\x0a\xdd\x40Bq!'],
    ['JPEG XL', '\0\0\0\x0cJXL \r\n\x87\n'],
    ['JPEG 2000', '\0\0\0\x0cjP  \r\n\x87\n'],
    ['BMP', 'BM\x76\x00\x00\x00'],
  ])('%s is called by its name, whatever that of its file', async (kind, begins) => {
    await expect(
      decodeImage(Buffer.concat([Buffer.from(begins, 'latin1'), Buffer.alloc(500)]), { shortSide: 32 }),
    ).rejects.toMatchObject({ code: 'BAD_IMAGE', message: expect.stringContaining(`it is ${kind}, `) as string });
  });

  it('leaves the AVIF that is broken to its decoder', async () => {
    const avif = await picture(64, 48).avif().toBuffer();
    await expect(decodeImage(avif.subarray(0, 200), { shortSide: 32 })).rejects.toMatchObject({
      code: 'BAD_IMAGE',
      message: expect.not.stringContaining('HEIC') as string,
    });
  });
});

describe('broken files', async () => {
  it.each(Object.entries(await brokenFiles()))('%s is refused with a reason', async (_name, bytes) => {
    await expect(decodeImage(bytes, { shortSide: 32 })).rejects.toMatchObject({
      code: 'BAD_IMAGE',
      message: expect.stringMatching(/\w{4}/),
    });
  });
});
