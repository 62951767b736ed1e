import sharp from 'sharp';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { decodeImage, type DecodedImage } from '../../lib/data/decode.js';
import { openJpegDecoder } from '../../lib/data/jpeg-decoder.js';
import { readJpegHeader } from '../../lib/data/jpeg-header.js';
import { brokenFiles, picture } from '../fixtures/images/draw.js';

const addon = loadAddon();
const decoder = openJpegDecoder();

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

/**
 * Seeded blotches of a few pixels, so that no part of a picture is like another and none has an edge that JPEG rings
 * at.
 */
function blotches(width: number, height: number): Buffer {
  const pixels = Buffer.alloc(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++)
        pixels[(y * width + x) * 3 + c] =
          128 + 60 * Math.sin(x / (3 + c) + 2 * c) * Math.cos(y / (4 - c)) + 50 * Math.sin((x * y) / 9000 + c);
    }
  }
  return pixels;
}

const draw = (width: number, height: number) => sharp(blotches(width, height), { raw: { width, height, channels: 3 } });

/** The module anew, as a process with these variables has it. */
async function decodeWith(
  environment: Record<string, string>,
): Promise<{ decodeImage: typeof decodeImage; decoder: ReturnType<typeof openJpegDecoder> }> {
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
    const taps = Array.from({ length: size }, (__, j): [number, number] => [
      j,
      cubic(Math.abs(j + 0.5 - (i + 0.5) * (size / out)) / scale),
    ]).filter(([, weight]) => weight !== 0);
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
    const [ours, theirs] = [
      await decodeImage(file, { shortSide: 64 }),
      await bySharp.decodeImage(file, { shortSide: 64 }),
    ];
    expect(ours).toMatchObject({ width: 97, height: 61 });
    expect(difference(ours.pixels, theirs.pixels)).toEqual({ mean: 0, most: 0 });
    for (const shortSide of [45, 25]) {
      const apart = difference(
        (await decodeImage(file, { shortSide })).pixels,
        (await bySharp.decodeImage(file, { shortSide })).pixels,
      );
      expect(apart.mean).toBeLessThan(3); // sharp rounds between the two directions, and the places of its taps
    }
  }
});

it.each([
  [97, 61, 45],
  [61, 97, 60],
  [97, 61, 25],
  [500, 375, 280],
  [40, 40, 21],
  [64, 33, 9],
])('%i x %i pixels are reduced to %i by an antialiased cubic', async (width, height, shortSide) => {
  const file = await draw(width, height).jpeg({ quality: 95 }).toBuffer();
  const reduced = await decodeImage(file, { shortSide });
  expect(Math.min(reduced.width, reduced.height)).toBe(shortSide);
  const apart = difference(
    reduced.pixels,
    reduceByDefinition(await decodeImage(file, { shortSide: 1000 }), reduced.width, reduced.height),
  );
  expect(apart.most).toBeLessThanOrEqual(1);
});

it('shrinks while decoding what is reduced by four or more, without a shift', async () => {
  const file = await draw(901, 699).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
  const full = await decodeImage(file, { shortSide: 1000 });
  for (const shortSide of [170, 130, 110, 80, 57]) {
    const reduced = await decodeImage(file, { shortSide });
    expect(
      difference(reduced.pixels, reduceByDefinition(full, reduced.width, reduced.height)).mean,
      String(shortSide),
    ).toBeLessThan(1.5);
  }
  expect((await decodeImage(file, { shortSide: 1 })).pixels.length).toBe(3);
  // Of 61 rows half are 31, the last of one row alone: taken for a whole one, it would move every row after the first.
  const small = await draw(97, 61).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
  const reduced = await decodeImage(small, { shortSide: 14 });
  expect(
    difference(reduced.pixels, reduceByDefinition(await decodeImage(small, { shortSide: 61 }), reduced.width, 14)).mean,
  ).toBeLessThan(1.5);
});

it.each([
  [336, 248, 128],
  [336, 248, 64],
  [504, 376, 21],
  [248, 336, 90],
])('%i x %i pixels that sharp decodes are reduced to %i without a shift, too', async (width, height, shortSide) => {
  const full = await draw(width, height).png().toBuffer();
  const { pixels } = await decodeImage(full, { shortSide: 1000 });
  const turned = await sharp(full)
    .rotate(90)
    .jpeg({ quality: 100, chromaSubsampling: '4:4:4' })
    .withMetadata({ orientation: 8 })
    .toBuffer();
  const bySharp = await decodeWith({ LGDISTILL_TURBOJPEG: 'off' });
  const plain = await sharp(full).jpeg({ quality: 100, chromaSubsampling: '4:4:4' }).toBuffer();
  for (const [kind, reduced] of [
    ['png', await decodeImage(full, { shortSide })],
    ['turned jpeg', await decodeImage(turned, { shortSide })],
    ['jpeg without libjpeg-turbo', await bySharp.decodeImage(plain, { shortSide })],
  ] as const) {
    const apart = difference(
      reduced.pixels,
      reduceByDefinition({ width, height, pixels }, reduced.width, reduced.height),
    );
    // sharp rounds between the two directions, and shrinks by whole numbers first
    expect(apart.mean, kind).toBeLessThan(1.5);
  }
});

describe('colour profiles', async () => {
  const bySharp = await decodeWith({ LGDISTILL_TURBOJPEG: 'off' });
  const [width, height] = [96, 64];
  const plain = await draw(width, height).jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
  const p3 = readJpegHeader(await sharp(plain).withIccProfile('p3').jpeg().toBuffer())!.profile!;
  const withProfile = (profile: Uint8Array) =>
    Buffer.concat([
      plain.subarray(0, 2),
      Buffer.from([0xff, 0xe2, (16 + profile.length) >> 8, (16 + profile.length) & 255]),
      Buffer.from('ICC_PROFILE\0\x01\x01', 'latin1'),
      profile,
      plain.subarray(2),
    ]);

  const s15 = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32BE(Math.round(value * 65536));
    return bytes;
  };
  const u16 = (...values: number[]) => Buffer.from(values.flatMap((value) => [value >> 8, value & 255]));
  /** A profile of three curves and Adobe RGB's matrix. @param curve the data of all three curves */
  function makeProfile(curve: Buffer, type = 'mntr'): Buffer {
    const colourants = {
      rXYZ: [0.60974, 0.31111, 0.01947],
      gXYZ: [0.20528, 0.62567, 0.06087],
      bXYZ: [0.14919, 0.06322, 0.74457],
      wtpt: [0.9642, 1, 0.8249],
    };
    const description = Buffer.concat([Buffer.from('desc\0\0\0\0\0\0\0\x05test\0', 'latin1'), Buffer.alloc(79)]);
    const tags: [string, Buffer][] = [
      ...Object.entries(colourants).map(([name, xyz]): [string, Buffer] => [
        name,
        Buffer.concat([Buffer.from('XYZ \0\0\0\0', 'latin1'), ...xyz.map(s15)]),
      ]),
      ['rTRC', curve],
      ['gTRC', curve],
      ['bTRC', curve],
      ['desc', description],
      ['cprt', Buffer.from('text\0\0\0\0none\0', 'latin1')],
    ];
    const header = Buffer.alloc(128 + 4 + 12 * tags.length);
    header.write(`lcms\x02\x40\0\0${type}RGB XYZ `, 4, 'latin1');
    header.write('acsp', 36, 'latin1');
    Buffer.concat([s15(0.9642), s15(1), s15(0.8249)]).copy(header, 68);
    header.writeUInt32BE(tags.length, 128);
    const parts: Buffer[] = [header];
    let at = header.length;
    for (const [i, [name, data]] of tags.entries()) {
      header.write(name, 132 + 12 * i, 'latin1');
      header.writeUInt32BE(at, 136 + 12 * i);
      header.writeUInt32BE(data.length, 140 + 12 * i);
      const padded = Buffer.concat([data, Buffer.alloc((4 - (data.length % 4)) % 4)]);
      parts.push(padded);
      at += padded.length;
    }
    header.writeUInt32BE(at, 0);
    return Buffer.concat(parts);
  }
  const curv = (...values: number[]) =>
    Buffer.concat([Buffer.from('curv\0\0\0\0\0\0', 'latin1'), u16(values.length, ...values)]);
  const para = (kind: number, ...values: number[]) =>
    Buffer.concat([Buffer.from('para\0\0\0\0', 'latin1'), u16(kind, 0), ...values.map(s15)]);
  const profiles: [string, Uint8Array][] = [
    ['Display P3', p3],
    ['a gamma of 2.2', makeProfile(curv(563))],
    ['no curve at all', makeProfile(curv())],
    ['a table', makeProfile(curv(...Array.from({ length: 256 }, (_, i) => Math.round(65535 * (i / 255) ** 1.8))))],
    ['a formula of one number', makeProfile(para(0, 1.8))],
    ['a formula with a straight part', makeProfile(para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))],
    ['a formula of seven numbers', makeProfile(para(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0, 0))],
  ];
  it.each(profiles)('are converted as sharp converts them: %s', async (_name, profile) => {
    const file = withProfile(profile);
    const [ours, theirs, raw] = [
      await decodeImage(file, { shortSide: 64 }),
      await bySharp.decodeImage(file, { shortSide: 64 }),
      await decodeImage(plain, { shortSide: 64 }),
    ];
    const apart = difference(ours.pixels, theirs.pixels);
    expect(apart.mean).toBeLessThan(0.5);
    expect(apart.most).toBeLessThanOrEqual(3);
    expect(difference(raw.pixels, theirs.pixels).mean).toBeGreaterThan(2); // it makes a difference
  });

  it('of other kinds, and damaged ones, are left to sharp', async () => {
    const good = makeProfile(curv(563));
    const changed = (at: number, text: string) =>
      Buffer.concat([good.subarray(0, at), Buffer.from(text, 'latin1'), good.subarray(at + text.length)]);
    const tagAt = (name: string) => good.indexOf(name, 132);
    for (const profile of [
      changed(16, 'CMYK'),
      changed(20, 'Lab '),
      changed(tagAt('gTRC'), 'xTRC'),
      changed(tagAt('bXYZ'), 'xXYZ'),
      changed(tagAt('wtpt'), 'A2B0'),
      good.subarray(0, 200),
      changed(tagAt('rXYZ') + 4, '\x7f\xff\xff\xff'),
      changed(128, '\xff\xff\xff\xff').subarray(0, 140),
      makeProfile(para(4, 2.4, 0.99 / 1.055, 0.05 / 1.055, 0.07, 0.04, 0.01, 0.01)),
    ]) {
      await expect(addon.decodeJpeg(plain, 48, 32, profile)).rejects.toMatchObject({ code: 'BAD_IMAGE' });
    }
    expect(await decodeImage(withProfile(changed(tagAt('gTRC'), 'xTRC')), { shortSide: 32 })).toMatchObject({
      width: 48,
      height: 32,
    });
  });
});

it('leaves to sharp what it has anything to say of, and says so of the file itself', async () => {
  const file = await draw(80, 60).jpeg().toBuffer();
  const damaged = Buffer.from(file);
  damaged.fill(0xff, 700, 760);
  const refused = { code: 'BAD_IMAGE' };
  for (const bytes of [
    file.subarray(0, 900),
    damaged,
    Buffer.from('no image'),
    Buffer.alloc(0),
    await draw(80, 60).toColourspace('b-w').jpeg().toBuffer(),
    await draw(80, 60).toColourspace('cmyk').jpeg().toBuffer(),
    await draw(80, 60).png().toBuffer(),
  ]) {
    await expect(addon.decodeJpeg(bytes, 40, 30)).rejects.toMatchObject(refused);
  }
  await expect(addon.decodeJpeg(file, 81, 60)).rejects.toMatchObject({
    ...refused,
    message: expect.stringContaining('80 x 60') as string,
  });
  expect(() => addon.decodeJpeg(file, 0, 30)).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }) as Error);
  for (const bytes of Object.values(await brokenFiles()))
    await expect(decodeImage(bytes, { shortSide: 32 })).rejects.toMatchObject(refused);
  expect((await addon.decodeJpeg(file, 40, 30)).length).toBe(40 * 30 * 3);
});

it('turns a file whose EXIF stands behind its size', async () => {
  const file = await draw(80, 60).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  const segments: Buffer[] = [];
  let at = 2;
  for (; file[at + 1] !== 0xda; at += segments.at(-1)!.length)
    segments.push(file.subarray(at, at + 2 + file.readUInt16BE(at + 2)));
  const isExif = (segment: Buffer) => segment[1] === 0xe1;
  const moved = Buffer.concat([
    file.subarray(0, 2),
    ...segments.filter((one) => !isExif(one)),
    ...segments.filter(isExif),
    file.subarray(at),
  ]);
  expect(moved.length).toBe(file.length);
  expect(moved.equals(file)).toBe(false);
  expect(await decodeImage(moved, { shortSide: 100 })).toEqual(await decodeImage(file, { shortSide: 100 }));
  expect(await decodeImage(moved, { shortSide: 100 })).toMatchObject({ width: 60, height: 80 });
});

it('a file that ends early is refused whichever decoder there is', async () => {
  const file = (await draw(80, 60).jpeg().toBuffer()).subarray(0, 900);
  const bySharp = await decodeWith({ LGDISTILL_TURBOJPEG: 'off' });
  for (const decode of [decodeImage, bySharp.decodeImage])
    await expect(decode(file, { shortSide: 30 })).rejects.toMatchObject({ code: 'BAD_IMAGE' });
});

it('has a reason for each of many files that are broken at once', async () => {
  const file = await draw(200, 150).png().toBuffer();
  const broken = Array.from({ length: 200 }, (_, i) => file.subarray(0, Math.floor(file.length * (0.2 + 0.003 * i))));
  const results = await Promise.allSettled(broken.map((bytes) => decodeImage(bytes, { shortSide: 50 })));
  for (const result of results)
    expect(result.status === 'rejected' && String(result.reason)).toMatch(
      /libpng read error|its decoder gave no reason: it may be damaged/u,
    );
  // sharp's ends in a colon
  await expect(decodeImage(file.subarray(0, 60), { shortSide: 50 })).rejects.toMatchObject({
    message: 'Input buffer has corrupt header.',
  });
});

it('says why a library is not used, and goes on with sharp', async () => {
  const missing = await decodeWith({ LGDISTILL_TURBOJPEG: '/nowhere/libturbojpeg.so.0' });
  expect(missing.decoder).toMatchObject({
    name: 'sharp',
    path: undefined,
    reasons: [expect.stringContaining('/nowhere/libturbojpeg.so.0')],
  });
  const other = await decodeWith({ LGDISTILL_TURBOJPEG: 'libm.so.6' });
  expect(other.decoder.reasons).toEqual([expect.stringContaining('libm.so.6 has no tjInitDecompress')]);
  expect(await other.decodeImage(await picture(64, 48).jpeg().toBuffer(), { shortSide: 24 })).toMatchObject({
    width: 32,
    height: 24,
  });
});

it('decodes many at once, each as alone', async () => {
  const files = await Promise.all(
    Array.from({ length: 12 }, async (_, i) =>
      draw(70 + 13 * i, 90)
        .jpeg()
        .toBuffer(),
    ),
  );
  const alone: DecodedImage[] = [];
  for (const file of files) alone.push(await decodeImage(file, { shortSide: 50 }));
  for (const [i, image] of (
    await Promise.all(files.map(async (file) => decodeImage(file, { shortSide: 50 })))
  ).entries())
    expect(difference(image.pixels, alone[i]!.pixels).most).toBe(0);
});
