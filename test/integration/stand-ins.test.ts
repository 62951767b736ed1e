/**
 * Training on images of which one cannot be decoded, found when its turn comes: what is said of the one that stands in
 * for it.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { openDevice } from '../../lib/device.js';
import { createStudent, loadTeacher, PrecomputedTeacher } from '../../lib/models/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, sameBits, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const broken = 'circle/7.png'; // the last of its class: cross/0.png stands in for it
let data: string;
let made: Awaited<ReturnType<typeof madeUpTeacher>>;

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  await writeFile(join(data, broken), 'no picture');
  made = await madeUpTeacher(join(folder, 'made-up'));
});

test('precomputed embeddings are those of the images that the student sees', async () => {
  const known = await PrecomputedTeacher.load(made.teacher);
  let runs = 0;
  const weightsOf = async (changed?: string) => {
    const teacher = join(folder, `teacher-${++runs}.safetensors`);
    await PrecomputedTeacher.save(
      teacher,
      made.ids,
      Float32Array.from(made.ids.flatMap((id) => [...known.lookup([id === changed ? 'triangle/0.png' : id])])),
      { resolution: 32 },
    );
    const config = smallConfig(data, join(folder, `run-${runs}`), {
      teacher,
      bank: made.bank,
      data: { cache: 'stream', maxBrokenShare: 0.1 },
    });
    return (await train({ ...config, names: undefined })).weights;
  };
  const as = await weightsOf();
  const differ = (other: typeof as) =>
    Object.entries(other).filter(([name, values]) => !sameBits(values, as[name]!)).length;
  expect(differ(await weightsOf(broken))).toBe(0);
  expect(differ(await weightsOf('cross/0.png'))).toBeGreaterThan(10);
});

test('the online probe learns the labels of the images that the student sees', async () => {
  using device = await openDevice('cpu');
  await using teacher = await loadTeacher(made.teacher, { device });
  const tsb = await TextualSemanticsBank.load(made.bank);
  const source = await openImageFolder(data, { labels: 'folders' });
  using images = await StreamedImages.open(source, { device, resolution: 32, margin: 1, maxBrokenShare: 0.1 });
  const { length, ids, sourceIndex } = images;
  const batch = {
    images: Int32Array.of(6, 7, 20, 31),
    drawIds: Int32Array.of(6, 7, 20, 31),
    seed: 0,
    epoch: 0,
    step: 0,
  };
  const { store, shown } = await images.prepare(batch.images);
  expect([...shown!]).toEqual([6, 8, 20, 31]);

  const weightsAfter = async (labels: Int32Array, told: { shown?: Int32Array }) => {
    const student = createStudent('mobilenet_v3_small', {
      device,
      embeddingSize: teacher.embeddingSize,
      widthMultiplier: 0.1,
    });
    using distiller = new Distiller({
      device,
      teacher,
      student,
      tsb,
      config: { method: 'lgd', data: { resolution: 32 }, train: { batchSize: 4 } },
      onlineClasses: 4,
    });
    await distiller.queueStep([{ ...batch, ...told, dataset: { length, ids, sourceIndex, labels, store } }], {
      step: 0,
      learningRate: 0.1,
    });
    return (await distiller.onlineOf(0)!.state()).weights;
  };
  const right = Int32Array.from(images.labels!, (label, image) =>
    ids[image] === broken ? source.classNames!.indexOf('cross') : label,
  );
  const expected = await weightsAfter(right, {});
  expect(sameBits(await weightsAfter(images.labels!, { shown }), expected)).toBe(true);
  expect(sameBits(await weightsAfter(images.labels!, {}), expected)).toBe(false);

  using distiller = new Distiller({
    device,
    teacher,
    student: createStudent('mobilenet_v3_small', {
      device,
      embeddingSize: teacher.embeddingSize,
      widthMultiplier: 0.1,
    }),
    tsb,
    config: { method: 'lgd', data: { resolution: 32 }, train: { batchSize: 4 } },
    onlineClasses: 4,
  });
  const refused = async (labels: Int32Array | undefined, told: { shown?: Int32Array }, error: object) =>
    expect(
      distiller.queueStep([{ ...batch, ...told, dataset: { length, ids, sourceIndex, labels, store } }], {
        step: 0,
        learningRate: 0.1,
      }),
    ).rejects.toMatchObject(error);
  const before = await distiller.state();
  await refused(undefined, { shown }, { code: 'BAD_DATASET', option: 'evaluate.online' });
  // those of the batch
  await refused(images.labels!.subarray(0, 4), { shown }, { code: 'BAD_SHAPE', option: 'labels' });
  await refused(
    right.map((label) => label + 1),
    {},
    { code: 'BAD_OPTION', option: 'labels', found: 4, allowed: '0 to 3' },
  );
  await refused(right, { shown: shown!.subarray(1) }, { code: 'BAD_SHAPE', option: 'shown' });
  await refused(
    right,
    { shown: Int32Array.of(6, 8, 20, length) },
    { code: 'BAD_OPTION', option: 'shown', found: length },
  );
  const after = await distiller.state();
  expect(
    Object.entries(after.weights).every(([name, { data: values }]) => sameBits(values, before.weights[name]!.data)),
  ).toBe(true);
});
