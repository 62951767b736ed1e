import sharp from 'sharp';
import { expect, it } from 'vitest';
import { decodeImage } from '../../lib/data/decode.js';
import { readJpegHeader } from '../../lib/data/jpeg-header.js';

it('a plain JPEG decodes to the same pixels as by the long way', async () => {
  const [width, height] = [97, 61];
  const noise = Buffer.from(
    Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 7919 + (i >> 5) * 31) & 255),
  );
  const draw = () => sharp(noise, { raw: { width, height, channels: 3 } });
  for (const [options, plain] of [
    [{ quality: 90 }, true],
    [{ quality: 60, progressive: true }, true],
    [{ chromaSubsampling: '4:4:4' }, true],
  ] as const) {
    const bytes = await draw().jpeg(options).toBuffer();
    expect(readJpegHeader(bytes)).toEqual(plain ? { width, height } : undefined);
    expect(
      readJpegHeader(
        await sharp(bytes)
          .withExif({ IFD0: { Copyright: 'somebody' } })
          .jpeg()
          .toBuffer(),
      ),
    ).toEqual({ width, height });
    const withProfile = (profile: string) =>
      Buffer.concat([
        bytes.subarray(0, 2),
        Buffer.from([0xff, 0xe2, 0, 16 + profile.length]),
        Buffer.from(`ICC_PROFILE\0\x01\x01${profile}`, 'latin1'),
        bytes.subarray(2),
      ]);
    expect(readJpegHeader(withProfile('... sRGB IEC61966-2.1 ...'))).toEqual({ width, height });
    expect(readJpegHeader(withProfile('... Adobe RGB (1998) ...'))).toEqual({
      width,
      height,
      profile: Buffer.from('... Adobe RGB (1998) ...'),
    });
    // two profiles, or two parts of one
    expect(
      readJpegHeader(Buffer.concat([withProfile('a').subarray(0, 21), withProfile('b').subarray(2)])),
    ).toBeUndefined();
    expect(readJpegHeader(await sharp(bytes).withIccProfile('p3').jpeg().toBuffer())).toMatchObject({
      width,
      height,
      profile: { length: 480 },
    });
    expect(readJpegHeader(await sharp(bytes).withMetadata({ orientation: 6 }).jpeg().toBuffer())).toBeUndefined();
    // EXIF that cannot be read, in front of the very same picture: the long way.
    const exif = Buffer.concat([
      bytes.subarray(0, 2),
      Buffer.from([0xff, 0xe1, 0, 8]),
      Buffer.from('Exif\0\0'),
      bytes.subarray(2),
    ]);
    expect(readJpegHeader(exif)).toBeUndefined();
    for (const shortSide of [61, 200])
      expect(
        Buffer.from((await decodeImage(bytes, { shortSide })).pixels).equals(
          (await decodeImage(exif, { shortSide })).pixels,
        ),
        `${shortSide}`,
      ).toBe(true);
  }
  for (const other of [
    await draw().png().toBuffer(),
    await draw().toColourspace('b-w').jpeg().toBuffer(),
    await draw().toColourspace('cmyk').jpeg().toBuffer(),
    Buffer.from([0xff, 0xd8, 0xff]),
    Buffer.alloc(0),
  ])
    expect(readJpegHeader(other)).toBeUndefined();
});
