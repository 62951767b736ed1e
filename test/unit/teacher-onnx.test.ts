import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { expect, test, vi } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { LgdError } from '../../lib/errors.js';
import { hashModel } from '../../lib/models/teachers/fingerprint.js';
import { OnnxTeacher } from '../../lib/models/teachers/onnx.js';
import { clipMean, clipStd, readPreprocessor } from '../../lib/models/teachers/preprocessor.js';
import { sessionError } from '../../lib/onnx/session.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { writeTower } from '../fixtures/onnx.js';
import type { TinyTower } from '../fixtures/onnx.js';
import { randomUniform } from '../fixtures/random.js';
import { tinyClip } from '../fixtures/tiny.js';
import { noteSkip, sharedPath } from '../shared.js';

const folder = temporaryFolder();
const weights = Float32Array.from({ length: 3 * 5 }, (_, i) => Math.sin(i + 1));
const preprocessing = {
  resolution: 8,
  mean: [0, 0, 0] as [number, number, number],
  std: [1, 1, 1] as [number, number, number],
};
let count = 0;

function tower(options: Partial<TinyTower> = {}): string {
  const file = join(folder, `tower${count++}.onnx`);
  writeTower(file, { weights, resolution: 8, ...options });
  return file;
}

function images(batch: number, resolution: number): Float32Array {
  return randomUniform(batch * 3 * resolution ** 2, batch);
}

/** The tower of test/fixtures/onnx.ts written out: channel means times weights. */
function expected(pixels: Float32Array, batch: number): number[] {
  return Array.from({ length: batch * 5 }, (_, i) => {
    let sum = 0;
    for (let channel = 0; channel < 3; channel++) {
      const from = (Math.floor(i / 5) * 3 + channel) * 64;
      sum += (pixels.subarray(from, from + 64).reduce((a, b) => a + b, 0) / 64) * weights[channel * 5 + (i % 5)]!;
    }
    return sum;
  });
}

function close(actual: Float32Array, wanted: number[]): void {
  expect(actual.length).toBe(wanted.length);
  actual.forEach((value, i) => expect(value).toBeCloseTo(wanted[i]!, 5));
}

test.each([
  ['any batch', {}],
  ['an output of patch features besides', { withMaps: true, outputs: ['pooler_output'] }],
  ['image_embeds among others', { outputs: ['hidden', 'image_embeds'] }],
  ['a batch fixed at one', { batch: 1 }],
])('embeds images with a tower of %s', async (_, options) => {
  const teacher = await OnnxTeacher.load(tower(options), preprocessing);
  expect(teacher).toMatchObject({ kind: 'onnx', embeddingSize: 5, resolution: 8, mean: [0, 0, 0], std: [1, 1, 1] });
  for (const batch of [1, 3]) close(await teacher.embed(images(batch, 8), batch), expected(images(batch, 8), batch));
});

test('has a fingerprint of its file and of weights in files beside it, wherever they lie', async () => {
  const [file, elsewhere] = [tower(), join(folder, 'elsewhere.onnx')];
  copyFileSync(file, elsewhere);
  const fingerprint = async (path: string) => (await OnnxTeacher.load(path, preprocessing)).fingerprint();
  const alone = await fingerprint(file);
  expect(await fingerprint(elsewhere)).toBe(alone);
  expect(await fingerprint(tower({ weights: weights.map((value) => value + 1) }))).not.toBe(alone);
  writeFileSync(`${file}_data`, 'weights');
  const apart = await fingerprint(file);
  expect(apart).not.toBe(alone);
  writeFileSync(`${file}_data`, 'others.');
  expect(await fingerprint(file)).not.toBe(apart);
  await expect((await OnnxTeacher.load(file, preprocessing)).fingerprint(AbortSignal.abort())).rejects.toMatchObject({
    code: 'ABORTED',
  });
});

test('a folder that may not be listed hides such files, and is told of', async () => {
  const file = join(folder, 'unlisted', 'tower.onnx');
  mkdirSync(dirname(file));
  copyFileSync(tower(), file);
  chmodSync(file, 0o644);
  chmodSync(dirname(file), 0o711);
  chmodSync(folder, 0o755);
  await asUser(() =>
    expect(hashModel(file)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`cannot read ${dirname(file)}`) as string,
    }),
  );
});

test('a session that the system keeps from opening is no fault of the model', () => {
  const thread =
    '/onnxruntime_src/onnxruntime/core/platform/posix/env.cc:205 onnxruntime::{anonymous}::PosixThread::PosixThread(const char*, int) pthread_create failed, error code: 11 error msg: Resource temporarily unavailable';
  for (const [message, code] of [
    [thread, 'DEVICE_UNAVAILABLE'],
    ['std::bad_alloc', 'OUT_OF_MEMORY'],
    ['Protobuf parsing failed.', 'BAD_MODEL'],
  ] as const)
    expect(sessionError('a.onnx', new Error(message))).toMatchObject({ code });
});

test('says what arrays onnxruntime needs where there are others, as under Jest', async () => {
  const file = tower();
  vi.stubGlobal('Float32Array', class extends Float32Array {});
  await expect(OnnxTeacher.load(file, preprocessing)).rejects.toMatchObject({
    code: 'DEPENDENCY_MISSING',
    mend: expect.stringContaining('{ Float32Array, BigInt64Array }') as string,
  });
  vi.unstubAllGlobals();
});

test('an output can be chosen, and must be where the choice is not clear', async () => {
  const file = tower({ outputs: ['one', 'two'] });
  await expect(OnnxTeacher.load(file, preprocessing)).rejects.toMatchObject({ code: 'BAD_MODEL', allowed: 'one, two' });
  await expect(OnnxTeacher.load(file, { ...preprocessing, output: 'three' })).rejects.toMatchObject({
    code: 'BAD_MODEL',
    found: 'three',
  });
  const teacher = await OnnxTeacher.load(file, { ...preprocessing, output: 'two' });
  close(await teacher.embed(images(1, 8), 1), expected(images(1, 8), 1));
});

test('a folder: the tower in onnx/, the preprocessing from its file, options before it', async () => {
  const model = join(folder, 'model');
  mkdirSync(join(model, 'onnx'), { recursive: true });
  writeTower(join(model, 'onnx/vision_model.onnx'), { weights, resolution: 8 });
  const { mend } = await OnnxTeacher.load(model).then(
    () => {
      throw new Error('it loads');
    },
    (error: unknown) => error as LgdError,
  );
  const [, file, example] = /^Write (\S+) with .*?(\{.*?\}); a program may give resolution, mean and std/u.exec(mend)!;
  expect(file).toBe(join(model, 'preprocessor_config.json'));
  writeFileSync(file!, example!.replace('224', '8'));
  expect(await OnnxTeacher.load(model)).toMatchObject({ resolution: 8, mean: clipMean, std: clipStd });
  writeFileSync(
    join(model, 'preprocessor_config.json'),
    JSON.stringify({ size: { shortest_edge: 8 }, image_mean: [0.1, 0.2, 0.3], image_std: [0.5, 0.6, 0.7] }),
  );
  expect(await OnnxTeacher.load(model)).toMatchObject({
    id: 'model',
    resolution: 8,
    mean: [0.1, 0.2, 0.3],
    std: [0.5, 0.6, 0.7],
  });
  expect(await OnnxTeacher.load(join(model, 'onnx/vision_model.onnx'))).toMatchObject({
    id: 'vision_model',
    mean: [0.1, 0.2, 0.3],
  });
  expect(await OnnxTeacher.load(model, { mean: [0, 0, 0] })).toMatchObject({ mean: [0, 0, 0], std: [0.5, 0.6, 0.7] });
});

test('refuses models and calls that do not fit', async () => {
  await expect(OnnxTeacher.load(join(folder, 'none.onnx'), preprocessing)).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
  await expect(OnnxTeacher.load('./nowhere', preprocessing)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(OnnxTeacher.load(tower({ inputs: ['pixel_values', 'input_ids'] }), preprocessing)).rejects.toMatchObject(
    { code: 'BAD_MODEL', found: 'pixel_values, input_ids' },
  );
  await expect(OnnxTeacher.load(tower(), { ...preprocessing, resolution: 9 })).rejects.toMatchObject({
    code: 'BAD_MODEL',
  });
  for (const [option, value] of Object.entries({ resolution: 2 ** 32, mean: [0.5], std: [0.2, 0, 0.2] })) {
    await expect(
      OnnxTeacher.load(tower(), { ...preprocessing, [option]: value as never }),
      option,
    ).rejects.toMatchObject({ code: 'BAD_OPTION', option });
  }
  writeFileSync(join(folder, 'broken.onnx'), 'not a model');
  await expect(OnnxTeacher.load(join(folder, 'broken.onnx'), preprocessing)).rejects.toMatchObject({
    code: 'BAD_MODEL',
  });
  const teacher = await OnnxTeacher.load(tower(), preprocessing);
  await expect(teacher.embed(images(2, 8), 3)).rejects.toMatchObject({ code: 'BAD_SHAPE' });
  await expect(teacher.embed(new Float32Array(0), 0)).rejects.toMatchObject({ code: 'BAD_SHAPE' });
  const spoiled = images(2, 8);
  spoiled[3 * 64 + 5] = NaN;
  await expect(teacher.embed(spoiled, 2)).rejects.toMatchObject({
    code: 'NON_FINITE',
    message: expect.stringContaining('image 1 ') as string,
  });
  await expect(teacher.embed(images(2, 8), 2, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  await teacher.dispose();
  await expect(teacher.embed(images(2, 8), 2)).rejects.toMatchObject({ code: 'DISPOSED' });
});

const statistics = { image_mean: [0.5, 0.5, 0.5], image_std: [0.25, 0.25, 0.25] };
test.each([
  [
    'a number',
    { size: 64, crop_size: 64, do_center_crop: true, ...statistics },
    { resolution: 64, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] },
  ],
  [
    'a crop from a larger size',
    { size: { shortest_edge: 256 }, crop_size: { height: 224, width: 224 }, ...statistics },
    { resolution: 224 },
  ],
  ['a height and a width', { size: [224, 224], ...statistics }, { resolution: 224 }],
  [
    'no crop',
    { size: { height: 256, width: 256 }, crop_size: 224, do_center_crop: false, ...statistics },
    { resolution: 256 },
  ],
  [
    'another rescaling',
    { size: 8, rescale_factor: 2 / 255, ...statistics },
    { mean: [0.25, 0.25, 0.25], std: [0.125, 0.125, 0.125] },
  ],
  [
    'no rescaling',
    { size: 8, do_rescale: false, image_mean: [127.5, 127.5, 127.5], image_std: [51, 51, 51] },
    { mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] },
  ],
  [
    'a rescaling left out',
    { size: 8, rescale_factor: null, ...statistics },
    { mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] },
  ],
  ['no normalisation', { size: 8, do_normalize: false }, { mean: [0, 0, 0], std: [1, 1, 1] }],
])('preprocessor_config.json with %s', async (_, config, wanted) => {
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(config));
  expect(await readPreprocessor(folder)).toMatchObject(wanted);
});

test('processor_config.json holds it where there is no file of its own', async () => {
  rmSync(join(folder, 'preprocessor_config.json'), { force: true });
  writeFileSync(join(folder, 'processor_config.json'), JSON.stringify({ processor_class: 'CLIPProcessor' }));
  expect(await readPreprocessor(folder)).toBeUndefined();
  writeFileSync(join(folder, 'processor_config.json'), JSON.stringify({ image_processor: null }));
  expect(await readPreprocessor(folder)).toBeUndefined();
  writeFileSync(
    join(folder, 'processor_config.json'),
    JSON.stringify({
      processor_class: 'CLIPProcessor',
      image_processor: { size: { shortest_edge: 48 }, ...statistics },
    }),
  );
  expect(await readPreprocessor(folder)).toEqual({
    resolution: 48,
    mean: statistics.image_mean,
    std: statistics.image_std,
  });
});

test.each([
  ['no size', statistics],
  ['an oblong size', { size: { height: 4, width: 8 }, ...statistics }],
  ['a size that is no number', { size: 'large', ...statistics }],
  ['a size beyond all images', { size: 2 ** 32, ...statistics }],
  ['a list of sizes', { size: [[8], [8]], ...statistics }],
  ['two means', { size: 8, ...statistics, image_mean: [1, 2] }],
  ['a std of zero', { size: 8, ...statistics, image_std: [1, 0, 1] }],
  ['a rescaling to nothing', { size: 8, rescale_factor: 0, ...statistics }],
  ['a rescaling by a text', { size: 8, rescale_factor: '1/255', ...statistics }],
])('refuses a preprocessor_config.json with %s', async (_, config) => {
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(config));
  await expect(readPreprocessor(folder)).rejects.toMatchObject({ code: 'BAD_MODEL' });
});

/** A real image tower is 16 MB, too much for the repository: it is used where it is. */
const realTower = existsSync(join(tinyClip, 'onnx/vision_model.onnx'))
  ? tinyClip
  : sharedPath('models', 'tiny-clip', 'onnx') && sharedPath('models', 'tiny-clip');
const photos = sharedPath('data', 'cifar10', 'test');
if (realTower === undefined) noteSkip('the ONNX teacher with a real tower', 'the image tower of tiny-clip is not here');
else if (photos === undefined) noteSkip('zero-shot accuracy of the ONNX teacher', 'the CIFAR-10 photos are not here');

test.skipIf(realTower === undefined)(
  'a real tower gives [B,256], the same for an image alone and in a batch',
  async () => {
    const teacher = await OnnxTeacher.load(realTower!);
    expect(teacher).toMatchObject({ id: 'tiny-clip', embeddingSize: 256, resolution: 64 });
    expect(teacher.mean[0]).toBeCloseTo(0.4815, 4);
    const pixels = images(4, 64);
    const together = await teacher.embed(pixels, 4);
    expect(together.length).toBe(4 * 256);
    const alone = await teacher.embed(pixels.subarray(2 * 3 * 64 * 64, 3 * 3 * 64 * 64), 1);
    const difference = Math.hypot(...alone.map((value, d) => value - together[2 * 256 + d]!)) / Math.hypot(...alone);
    expect(difference).toBeLessThan(1e-4);
  },
);

test.skipIf(realTower === undefined || photos === undefined)(
  'teacher and text bank name the photos of CIFAR-10',
  async () => {
    const encoder = await ClipTextEncoder.load(tinyClip);
    const templates = [
      'a photo of a {}',
      'a {}',
      'a blurry photo of a {}',
      'a small photo of the {}',
      'a picture of a {}',
      'a low resolution photo of a {}',
      'a cropped photo of a {}',
      '{}',
    ];
    const bank = await TextualSemanticsBank.build(readdirSync(photos!).sort(), { encoder, templates });
    const teacher = await OnnxTeacher.load(realTower!);
    const perClass = 40;
    let right = 0;
    for (const [label, name] of bank.names.entries()) {
      const files = readdirSync(join(photos!, name)).sort().slice(0, perClass);
      const pixels = new Float32Array(files.length * 3 * 64 * 64);
      for (const [i, file] of files.entries()) {
        const raw = await sharp(join(photos!, name, file))
          .resize(64, 64, { kernel: 'cubic' })
          .removeAlpha()
          .raw()
          .toBuffer();
        for (let p = 0; p < 64 * 64; p++)
          for (let c = 0; c < 3; c++)
            pixels[(i * 3 + c) * 64 * 64 + p] = (raw[p * 3 + c]! / 255 - teacher.mean[c]!) / teacher.std[c]!;
      }
      const rows = await teacher.embed(pixels, files.length);
      for (let i = 0; i < files.length; i++) {
        const scores = bank.names.map((_, k) =>
          bank.data.subarray(k * 256, (k + 1) * 256).reduce((sum, value, d) => sum + value * rows[i * 256 + d]!, 0),
        );
        if (scores.indexOf(Math.max(...scores)) === label) right++;
      }
    }
    const accuracy = right / (10 * perClass);
    console.log(`zero-shot top-1 of tiny-clip on CIFAR-10 (${10 * perClass} photos): ${(100 * accuracy).toFixed(1)} %`);
    expect(accuracy).toBeGreaterThan(0.74); // 80.5 % on the whole test set
  },
);
