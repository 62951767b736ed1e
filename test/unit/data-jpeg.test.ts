import sharp from 'sharp';
import { afterEach, expect, it, vi } from 'vitest';
import { decodeImage, type DecodedImage } from '../../lib/data/decode.js';
import { openJpegDecoder } from '../../lib/data/jpeg-decoder.js';
import { loadAddon } from '../../lib/native.js';
import { brokenFiles, picture } from '../fixtures/images/draw.js';

const addon = loadAddon();
const decoder = openJpegDecoder();

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

/** Seeded blotches of a few pixels, so that no part of a picture is like another and none has an edge that JPEG rings at. */
function blotches(width: number, height: number): Buffer {
  const pixels = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) pixels[(y * width + x) * 3 + c] = 128 + 60 * Math.sin(x / (3 + c) + 2 * c) * Math.cos(y / (4 - c)) + 50 * Math.sin((x * y) / 9000 + c);
    }
  }
  return pixels;
}

const draw = (width: number, height: number) => sharp(blotches(width, height), { raw: { width, height, channels: 3 } });

/** The module anew, as a process with these variables has it. */
async function decodeWith(environment: Record<string, string>): Promise<{ decodeImage: typeof decodeImage; decoder: ReturnType<typeof openJpegDecoder> }> {
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
  vi.resetModules();
  const { openJpegDecoder: open } = await import('../../lib/data/jpeg-decoder.js');
  return { decodeImage: (await import('../../lib/data/decode.js')).decodeImage, decoder: open() };
}

function difference(a: Uint8Array, b: Uint8Array): { mean: number; most: number } {
  expect(a.length).toBe(b.length);
  let [sum, most] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    const apart = Math.abs(a[i]! - b[i]!);
    sum += apart;
    most = Math.max(most, apart);
  }
  return { mean: sum / a.length, most };
}

/** Taps of each output sample: Keys' cubic with a = -1/2 around its centre, stretched by the scale and normalised. */
function cubicTaps(size: number, out: number): [place: number, weight: number][][] {
  const cubic = (x: number) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  const scale = Math.max(1, size / out);
  return Array.from({ length: out }, (_, i) => {
    const taps = Array.from({ length: size }, (__, j): [number, number] => [j, cubic(Math.abs(j + 0.5 - (i + 0.5) * (size / out)) / scale)]).filter(([, weight]) => weight !== 0);
    const total = taps.reduce((sum, [, weight]) => sum + weight, 0);
    return taps.map(([j, weight]) => [j, weight / total]);
  });
}

/** The definition in float64, both directions at once. */
function reduceByDefinition({ width, height, pixels }: DecodedImage, outWidth: number, outHeight: number): Uint8Array {
  const [across, down] = [cubicTaps(width, outWidth), cubicTaps(height, outHeight)];
  return Uint8Array.from({ length: outWidth * outHeight * 3 }, (_, at) => {
    const [y, x, c] = [Math.floor(at / 3 / outWidth), Math.floor(at / 3) % outWidth, at % 3];
    let sum = 0;
    for (const [j, wy] of down[y]!) for (const [i, wx] of across[x]!) sum += wy * wx * pixels[(j * width + i) * 3 + c]!;
    return Math.min(255, Math.max(0, Math.round(sum)));
  });
}

it('libjpeg-turbo is the decoder where the optional dependency is installed', () => {
  expect(decoder).toMatchObject({ name: 'libjpeg-turbo', reasons: [] });
});

it('a file that is not reduced has the pixels that sharp gives it', async () => {
  const bySharp = await decodeWith({ LGDISTILL_TURBOJPEG: 'off' });
  expect(bySharp.decoder.name).toBe('sharp');
  for (const options of [{ quality: 90 }, { quality: 60, progressive: true }, { chromaSubsampling: '4:4:4' }]) {
    const file = await draw(97, 61).jpeg(options).toBuffer();
    const [ours, theirs] = [await decodeImage(file, { shortSide: 64 }), await bySharp.decodeImage(file, { shortSide: 64 })];
    expect(ours).toMatchObject({ width: 97, height: 61 });
    expect(difference(ours.pixels, theirs.pixels)).toEqual({ mean: 0, most: 0 });
    for (const shortSide of [45, 25]) {
      const apart = difference((await decodeImage(file, { shortSide })).pixels, (await bySharp.decodeImage(file, { shortSide })).pixels);
      expect(apart.mean).toBeLessThan(3); // sharp rounds between the two directions, and the places of its taps
    }
  }
});

it.each([[97, 61, 45], [61, 97, 60], [97, 61, 25], [500, 375, 280], [40, 40, 21], [64, 33, 9]])('%i x %i pixels are reduced to %i by an antialiased cubic', async (width, height, shortSide) => {
  const file = await draw(width, height).jpeg({ quality: 95 }).toBuffer();
  const reduced = await decodeImage(file, { shortSide });
  expect(Math.min(reduced.width, reduced.height)).toBe(shortSide);
  const apart = difference(reduced.pixels, reduceByDefinition(await decodeImage(file, { shortSide: 1000 }), reduced.width, reduced.height));
  expect(apart.most).toBeLessThanOrEqual(1);
});

it('shrinks while decoding what is reduced by four or more, without a shift', async () => {
  const file = await draw(901, 699).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
  const full = await decodeImage(file, { shortSide: 1000 });
  for (const shortSide of [170, 130, 110, 80, 57]) {
    const reduced = await decodeImage(file, { shortSide });
    expect(difference(reduced.pixels, reduceByDefinition(full, reduced.width, reduced.height)).mean, String(shortSide)).toBeLessThan(1.5);
  }
  expect((await decodeImage(file, { shortSide: 1 })).pixels.length).toBe(3);
  // Of 61 rows half are 31, the last of one row alone: taken for a whole one, it would move every row after the first.
  const small = await draw(97, 61).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
  const reduced = await decodeImage(small, { shortSide: 14 });
  expect(difference(reduced.pixels, reduceByDefinition(await decodeImage(small, { shortSide: 61 }), reduced.width, 14)).mean).toBeLessThan(1.5);
});

it('leaves to sharp what it has anything to say of, and says so of the file itself', async () => {
  const file = await draw(80, 60).jpeg().toBuffer();
  const damaged = Buffer.from(file);
  damaged.fill(0xff, 700, 760);
  const refused = { code: 'BAD_IMAGE' };
  for (const bytes of [file.subarray(0, 900), damaged, Buffer.from('no image'), Buffer.alloc(0), await draw(80, 60).toColourspace('b-w').jpeg().toBuffer(), await draw(80, 60).toColourspace('cmyk').jpeg().toBuffer(), await draw(80, 60).png().toBuffer()]) {
    await expect(addon.decodeJpeg(bytes, 40, 30)).rejects.toMatchObject(refused);
  }
  await expect(addon.decodeJpeg(file, 81, 60)).rejects.toMatchObject({ ...refused, message: expect.stringContaining('80 x 60') as string });
  expect(() => addon.decodeJpeg(file, 0, 30)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }) as Error);
  for (const bytes of Object.values(await brokenFiles())) await expect(decodeImage(bytes, { shortSide: 32 })).rejects.toMatchObject(refused);
  expect((await addon.decodeJpeg(file, 40, 30)).length).toBe(40 * 30 * 3);
});

it('a file that ends early is refused whichever decoder there is', async () => {
  const file = (await draw(80, 60).jpeg().toBuffer()).subarray(0, 900);
  const bySharp = await decodeWith({ LGDISTILL_TURBOJPEG: 'off' });
  for (const decode of [decodeImage, bySharp.decodeImage]) await expect(decode(file, { shortSide: 30 })).rejects.toMatchObject({ code: 'BAD_IMAGE' });
});

it('says why a library is not used, and goes on with sharp', async () => {
  const missing = await decodeWith({ LGDISTILL_TURBOJPEG: '/nowhere/libturbojpeg.so.0' });
  expect(missing.decoder).toMatchObject({ name: 'sharp', path: undefined, reasons: [expect.stringContaining('/nowhere/libturbojpeg.so.0')] });
  const other = await decodeWith({ LGDISTILL_TURBOJPEG: 'libm.so.6' });
  expect(other.decoder.reasons).toEqual([expect.stringContaining('libm.so.6 has no tjInitDecompress')]);
  expect(await other.decodeImage(await picture(64, 48).jpeg().toBuffer(), { shortSide: 24 })).toMatchObject({ width: 32, height: 24 });
});

it('decodes many at once, each as alone', async () => {
  const files = await Promise.all(Array.from({ length: 12 }, async (_, i) => draw(70 + 13 * i, 90).jpeg().toBuffer()));
  const alone: DecodedImage[] = [];
  for (const file of files) alone.push(await decodeImage(file, { shortSide: 50 }));
  for (const [i, image] of (await Promise.all(files.map(async (file) => decodeImage(file, { shortSide: 50 })))).entries()) expect(difference(image.pixels, alone[i]!.pixels).most).toBe(0);
});
