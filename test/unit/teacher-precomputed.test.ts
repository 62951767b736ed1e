import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { PrecomputedTeacher } from '../../lib/models/teachers/precomputed.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const file = join(folder, 'embeddings.safetensors');
const ids = ['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg'];
const embeddings = Float32Array.of(1, 2, 3, 4, 5, 6);

test('saves and looks up rows by image, in the order asked for', async () => {
  await PrecomputedTeacher.save(file, ids, embeddings, {
    id: 'org/vit',
    resolution: 96,
    mean: [0.1, 0.2, 0.3],
    std: [1, 2, 3],
  });
  const teacher = await PrecomputedTeacher.load(file);
  expect(teacher).toMatchObject({
    kind: 'precomputed',
    id: 'org/vit',
    embeddingSize: 2,
    size: 3,
    resolution: 96,
    mean: [0.1, 0.2, 0.3],
    std: [1, 2, 3],
  });
  expect([...teacher.lookup(['dog/1.jpg', 'cat/1.jpg', 'dog/1.jpg'])]).toEqual([5, 6, 1, 2, 5, 6]);
  expect(teacher.has('cat/2.jpg')).toBe(true);
  expect(teacher.has('cat/3.jpg')).toBe(false);
});

test("takes float64, NumPy's own kind, and says what is wrong with ids", async () => {
  const write = (metadata: Record<string, string>) =>
    writeSafetensors(file, [['embeddings', { shape: [3, 2], data: Float64Array.from(embeddings) }]], metadata);
  await write({ ids: JSON.stringify(ids) });
  expect([...(await PrecomputedTeacher.load(file)).lookup(ids)]).toEqual([...embeddings]);
  await write({ ids: "['cat/1.jpg', 'cat/2.jpg', 'dog/1.jpg']" }); // str() of Python
  await expect(PrecomputedTeacher.load(file)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining('no JSON array of 3 texts') as string,
  });
  await write({});
  await expect(PrecomputedTeacher.load(file)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining('has no "ids"') as string,
  });
});

test('takes ./a and a for one image', async () => {
  const written = ['./cat/1.jpg', 'a.tar/./cat/2.jpg', 'dog./1.jpg'];
  await PrecomputedTeacher.save(file, written, embeddings);
  const teacher = await PrecomputedTeacher.load(file);
  expect([...teacher.lookup(['cat/1.jpg', 'a.tar/cat/2.jpg', './dog./1.jpg'])]).toEqual([...embeddings]);
  expect([...written, 'cat/1.jpg', '././cat/1.jpg'].every((id) => teacher.has(id))).toBe(true);
  await expect(PrecomputedTeacher.save(file, ['a/b', './a/b', 'c'], embeddings)).rejects.toMatchObject({
    code: 'BAD_DATASET',
    message: expect.stringContaining('given twice') as string,
  });
});

test('loading many rows can be stopped', async () => {
  const many = Array.from({ length: 20_000 }, (_, i) => `${i}.jpg`);
  await PrecomputedTeacher.save(file, many, new Float32Array(many.length).fill(1));
  await expect(PrecomputedTeacher.load(file, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
  expect(await PrecomputedTeacher.load(file)).toMatchObject({ size: many.length });
});

test('ids that no string holds are refused with the limit', async () => {
  vi.spyOn(JSON, 'stringify').mockImplementationOnce(() => {
    throw new RangeError('Invalid string length');
  });
  await expect(PrecomputedTeacher.save(file, ids, embeddings)).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining('512 MiB') as string,
  });
});

test("without more, the file's name and CLIP's preprocessing at 224 px", async () => {
  await PrecomputedTeacher.save(file, ids, embeddings);
  const teacher = await PrecomputedTeacher.load(file);
  expect(teacher).toMatchObject({ id: 'embeddings', resolution: 224 });
  expect(teacher.mean[2]).toBeCloseTo(0.408, 3);
  expect(teacher.std[0]).toBeCloseTo(0.2686, 4);
});

test('images without an embedding are counted, and the first named', async () => {
  await PrecomputedTeacher.save(file, ids, embeddings);
  const teacher = await PrecomputedTeacher.load(file);
  await expect(async () => teacher.lookup(['cat/1.jpg', 'a', 'b', 'c', 'd'])).rejects.toMatchObject({
    code: 'BAD_DATASET',
    found: 'a, b, c, ...',
    message: expect.stringContaining('4 of 5 images') as string,
  });
  await teacher.dispose();
  await expect(async () => teacher.lookup(['cat/1.jpg'])).rejects.toMatchObject({ code: 'DISPOSED' });
});

test.each([
  ['an id twice', ['a', 'b', 'a'], embeddings, 'BAD_DATASET'],
  ['rows that do not divide', ['a', 'b', 'c', 'd'], embeddings, 'BAD_SHAPE'],
  ['no rows', ids, new Float32Array(0), 'BAD_SHAPE'],
  ['a zero row', ids, Float32Array.of(1, 2, 0, 0, 5, 6), 'ZERO_EMBEDDING'],
  ['a row that is not finite', ids, Float32Array.of(1, 2, NaN, 0, 5, 6), 'NON_FINITE'],
  ['a row that is too long', ids, Float32Array.of(1, 2, 3e38, 3e38, 5, 6), 'NON_FINITE'],
])('refuses to save %s', async (_, names, values, code) => {
  await expect(PrecomputedTeacher.save(file, names, values)).rejects.toMatchObject({ code });
});

test.each([
  ['resolution', { resolution: 0.5 }],
  ['mean', { mean: [0, NaN, 0] as const }],
  ['std', { std: [1, 0, 1] as const }],
  ['std', { std: [1, -1, 1] as const }],
])('refuses to save a %s that no input can have', async (option, info) => {
  const unwritten = join(folder, 'unwritten.safetensors');
  await expect(PrecomputedTeacher.save(unwritten, ids, embeddings, info)).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option,
    message: expect.stringContaining(unwritten) as string,
  });
  await expect(PrecomputedTeacher.load(unwritten)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
});

const good = { ids: JSON.stringify(ids) };
test.each([
  ['no embeddings', 'other', [3, 2], good, 'BAD_MODEL'],
  ['no ids', 'embeddings', [3, 2], {}, 'BAD_MODEL'],
  ['too few ids', 'embeddings', [3, 2], { ids: '["a"]' }, 'BAD_MODEL'],
  ['ids that are not JSON', 'embeddings', [3, 2], { ids: 'a,b,c' }, 'BAD_MODEL'],
  ['ids that are numbers', 'embeddings', [3, 2], { ids: '[1,2,3]' }, 'BAD_MODEL'],
  ['an id twice', 'embeddings', [3, 2], { ids: '["a","a","b"]' }, 'BAD_DATASET'],
  ['another rank', 'embeddings', [6], good, 'BAD_MODEL'],
  ['a mean of two numbers', 'embeddings', [3, 2], { ...good, mean: '[1,2]' }, 'BAD_MODEL'],
  ['a std of zeros', 'embeddings', [3, 2], { ...good, std: '[0,0,0]' }, 'BAD_MODEL'],
  ['a resolution of none', 'embeddings', [3, 2], { ...good, resolution: '0' }, 'BAD_MODEL'],
])('refuses a file with %s', async (_, name, shape, metadata, code) => {
  await writeSafetensors(file, [[name, { shape, data: embeddings }]], metadata as Record<string, string>);
  await expect(PrecomputedTeacher.load(file)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(file) as string,
  });
});

test('says when there is no file', async () => {
  await expect(PrecomputedTeacher.load(join(folder, 'none.safetensors'))).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
});
