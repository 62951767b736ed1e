import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice, type Device } from '../../lib/device.js';
import { evaluateStudent } from '../../lib/evaluate/student.js';
import { loadTeacher, PrecomputedTeacher } from '../../lib/models/index.js';
import { Classifier } from '../../lib/predict/classifier.js';
import { classifiedImages } from '../../lib/predict/classes-file.js';
import { classifyImages } from '../../lib/predict/classify.js';
import { computeEmbeddings } from '../../lib/predict/embeddings.js';
import { loadStudent, writeStudent } from '../../lib/runs/student-file.js';
import { loadTextEncoder } from '../../lib/text/load-encoder.js';
import { lgdistill } from '../cli/program.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpBank, madeUpStudent, writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, sameBits, shapeNames, tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const [photos, student, embeddingSize] = [at('photos'), at('student', 'model.safetensors'), 24];
const config = { device: 'cpu' };
const shapesBank = TextualSemanticsBank.fromEmbeddings(
  shapeNames,
  Float32Array.from({ length: shapeNames.length * embeddingSize }, (_, i) => Math.sin(3 + i * i)),
  { encoderId: 'made up' },
);
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
  await drawShapes(photos, { count: 3 });
  await mkdir(at('student'));
  await writeMadeUpStudent(student, 'mobilenet_v2', { widthMultiplier: 0.35, resolution: 64, embeddingSize });
  await madeUpBank(embeddingSize).save(at('student', 'bank.safetensors'));
  await shapesBank.save(at('shapes.safetensors'));
});
afterAll(() => device.dispose());

const cosine = (a: Float32Array, b: Float32Array) => {
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    ab += value * b[i]!;
    aa += value * value;
    bb += b[i]! * b[i]!;
  });
  return ab / Math.sqrt(aa * bb);
};

/** The student's embeddings by its own forward pass, of pictures that have just its input's size. */
async function embeddingsOf(files: readonly string[]): Promise<Float32Array[]> {
  const { student: network, info } = await loadStudent(student, { device });
  using encoder = network.compile({ batch: 1, resolution: 64, training: false });
  const images = encoder.makeImages();
  const rows: Float32Array[] = [];
  for (const file of files) {
    const raw = await sharp(await readFile(join(photos, file)))
      .removeAlpha()
      .raw()
      .toBuffer();
    const plane = 64 * 64;
    const pixels = Float32Array.from({ length: 3 * plane }, (_, i) => {
      const [c, p] = [Math.floor(i / plane), i % plane];
      return (raw[3 * p + c]! / 255 - info.mean[c]!) / info.std[c]!;
    });
    device.addon.writeImages(images, pixels);
    encoder.forwardTensor(images, { training: false });
    rows.push(await device.addon.readTensor(encoder.output));
  }
  device.addon.release(images);
  return rows;
}

describe('classifyImages', () => {
  it("gives each image the student's own names in the order of their cosines", async () => {
    const found = await classifyImages({ student, images: photos, config });
    expect(found).toMatchObject({ names: ['cat', 'dog', 'bird'], top: 3, broken: [], remarks: [] });
    expect(found.ids).toHaveLength(12);
    const [rows, bank] = [await embeddingsOf(found.ids), madeUpBank(embeddingSize)];
    rows.forEach((row, i) => {
      const expected = bank.names
        .map((_, k) => cosine(row, bank.data.subarray(k * embeddingSize, (k + 1) * embeddingSize)))
        .map((value, k) => ({ value, k }))
        .sort((a, b) => b.value - a.value);
      expect([...found.indices.subarray(3 * i, 3 * i + 3)]).toEqual(expected.map(({ k }) => k));
      expected.forEach(({ value }, place) => expect(found.cosines[3 * i + place]).toBeCloseTo(value, 5));
    });
    expect(new Set(found.cosines).size).toBeGreaterThan(12); // the images tell
  });

  it('takes images for what an evaluation does', async () => {
    const bank = at('shapes.safetensors');
    const { predictions } = await evaluateStudent({ student, config: { ...config, bank, evaluate: { data: photos } } });
    const found = await classifyImages({ student, images: photos, top: 1, config: { ...config, bank } });
    expect(found.ids).toEqual(predictions.images);
    expect(found.indices).toEqual(predictions.student);
  });

  it('chooses among the names given, of which a bank has the embeddings', async () => {
    const found = await classifyImages({ student, images: photos, config: { ...config, names: ['bird', 'cat'] } });
    expect(found).toMatchObject({ names: ['bird', 'cat'], top: 2 });
    await expect(
      classifyImages({ student, images: photos, config: { ...config, names: ['bird', 'cow'] } }),
    ).rejects.toThrow(/the bank lacks "cow"/u);
  });

  it.each([
    [true, [...shapeNames, 'bird']],
    [true, ['bird']],
    [false, [...shapeNames, 'bird']],
  ])(
    "embeds them by the templates given, else by the student's (its bank beside: %s, of %j)",
    async (isBeside, own) => {
      await using encoder = await loadTextEncoder(tinyClip, { device });
      const bankBy = (names: string[], templates: string[]) =>
        TextualSemanticsBank.build(names, { encoder, templates });
      const [of, bank] = [at(`of-${own.length}-${isBeside}`), await bankBy(own, ['an old {}'])];
      const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35, embeddingSize: 256 });
      await mkdir(of);
      const file = join(of, 'model.safetensors');
      await writeStudent(file, { ...info, names: own, templates: ['an old {}'], bankHash: bank.hash }, weights);
      if (isBeside) await bank.save(join(of, 'bank.safetensors'));
      for (const [templates, expected] of [
        ['none', '{}'],
        [['an old {}'], 'an old {}'],
        [undefined, 'an old {}'],
      ] as const) {
        const given = { ...config, textEncoder: tinyClip, ...(templates !== undefined && { templates }) };
        const found = await classifyImages({ student: file, images: photos, config: { ...given, names: shapeNames } });
        const { bankHash } = await evaluateStudent({
          student: file,
          config: { ...given, evaluate: { data: photos, names: shapeNames } },
        });
        const { hash } = await bankBy(shapeNames, [expected]);
        expect([found.bankHash, bankHash]).toEqual([hash, hash]);
      }
    },
  );

  it.each([0, 4, 1.5])('refuses to give %s of three names', async (top) => {
    await expect(classifyImages({ student, images: photos, top, config })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'top',
      allowed: '1 to 3, the number of names',
    });
  });

  it('leaves out what cannot be decoded, and names it', async () => {
    const images = imagesFromBuffers([
      { id: 'whole', bytes: await readFile(join(photos, 'circle/0.png')) },
      { id: 'broken', bytes: Buffer.from('no picture') },
      { id: 'last', bytes: await readFile(join(photos, 'cross/1.png')) },
    ]);
    const found = await classifyImages({ student, images, config });
    expect(found.ids).toEqual(['whole', 'last']);
    expect(found.broken).toMatchObject([{ id: 'broken' }]);
    const files = [join(photos, 'circle/0.png'), join(photos, 'cross/1.png')];
    const whole = await classifyImages({ student, images: [...files, files[0]!], config });
    expect(whole.ids).toEqual(files);
    expect(sameBits(found.cosines, whole.cosines)).toBe(true);
  });

  it('refuses folders beside files, files of another kind, and none', async () => {
    await writeFile(at('notes.txt'), 'a');
    const refused = (images: string[]) => expect(classifyImages({ student, images, config })).rejects;
    await refused([photos, join(photos, 'circle/0.png')]).toMatchObject({ code: 'BAD_DATASET', option: 'images' });
    await refused([join(photos, 'circle/0.png'), at('notes.txt')]).toThrow(/no image by its ending/u);
    await refused([at('gone.png')]).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused([]).toMatchObject({ code: 'BAD_DATASET' });
  });

  it('ends when it is stopped', async () => {
    const controller = new AbortController();
    const stopped = classifyImages({ student, images: photos, config, signal: controller.signal });
    controller.abort();
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('computeEmbeddings', () => {
  it("has the student's embeddings, whole", async () => {
    const found = await computeEmbeddings({ student, images: photos, config });
    expect(found).toMatchObject({ embeddingSize, resolution: 64, id: student });
    const rows = await embeddingsOf(found.ids);
    rows.forEach((row, i) => {
      const own = found.embeddings.subarray(i * embeddingSize, (i + 1) * embeddingSize);
      row.forEach((value, d) => expect(own[d]).toBeCloseTo(value, 4));
    });
  });

  it("has a teacher's, which train in its place", async () => {
    const found = await computeEmbeddings({ images: photos, config: { ...config, teacher: tinyClip } });
    await PrecomputedTeacher.save(at('rows.safetensors'), found.ids, found.embeddings, { id: found.id });
    await using rows = await loadTeacher(at('rows.safetensors'), { device });
    expect(rows).toMatchObject({ kind: 'precomputed', size: 12, embeddingSize: 256, id: 'tiny-clip' });
  });

  it('wants one model', async () => {
    const refused = (options: object) =>
      expect(computeEmbeddings({ images: photos, ...options })).rejects.toMatchObject({ code: 'BAD_OPTION' });
    await refused({ config });
    await refused({ student, config: { ...config, teacher: tinyClip } });
  });
});

describe('a Classifier', () => {
  it('has the cosines of classifyImages, for calls that overlap too', async () => {
    using classifier = await Classifier.load(student, { device });
    expect(classifier.names).toEqual(['cat', 'dog', 'bird']);
    const found = await classifyImages({ student, images: photos, config });
    const answers = await Promise.all(
      found.ids.map(async (id) => classifier.classify(await readFile(join(photos, id)), { path: id })),
    );
    for (const [i, { names }] of [...classifiedImages(found)].entries()) {
      expect(answers[i]!.map(({ name }) => name)).toEqual(names.map(({ name }) => name));
      names.forEach(({ cosine: value }, place) => expect(answers[i]![place]!.cosine).toBeCloseTo(value, 5));
    }
    const [best, ...others] = await classifier.classify(await readFile(join(photos, 'circle/0.png')), { top: 1 });
    expect([best, others]).toEqual([answers[0]![0], []]);
  });

  it('takes another bank, of its size', async () => {
    using classifier = await Classifier.load(student, { device, bank: shapesBank });
    expect(classifier.names).toEqual(shapeNames);
    await expect(Classifier.load(student, { device, bank: madeUpBank(8) })).rejects.toMatchObject({ code: 'BAD_BANK' });
  });

  it('says which image it cannot decode, and goes on', async () => {
    const classifier = await Classifier.load(student, { device });
    await expect(classifier.classify(Buffer.from('no picture'), { path: 'upload 7' })).rejects.toThrow(
      expect.objectContaining({ code: 'BAD_IMAGE', message: expect.stringMatching(/^upload 7: /u) }),
    );
    const whole = await readFile(join(photos, 'circle/0.png'));
    expect(await classifier.embed(whole)).toHaveLength(embeddingSize);
    await expect(classifier.embed(whole, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
    const late = classifier.classify(whole);
    classifier.dispose();
    await expect(late).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe.each(await devicesUnderTest('classifying'))('on $name', ({ device: other }) => {
  it('embeds as on the CPU', async () => {
    const bytes = await readFile(join(photos, 'square/2.png'));
    using here = await Classifier.load(student, { device });
    using there = await Classifier.load(student, { device: other, precision: 'float32' });
    expect(cosine(await here.embed(bytes), await there.embed(bytes))).toBeGreaterThan(0.99999);
  });
});

describe('lgdistill', () => {
  it('classify prints a table, and left-out images beside it', async () => {
    const { code, stdout, stderr } = await lgdistill(['classify', photos, '--student', student, '--top', '1']);
    expect([code, stderr]).toEqual([0, expect.not.stringContaining('left out')]);
    const [head, first, ...rest] = stdout.trimEnd().split('\n');
    expect(head).toBe('image,name,cosine');
    expect(first).toMatch(/^circle\/0\.png,(?:cat|dog|bird),-?0\.\d{4}$/u);
    expect(rest).toHaveLength(11);
  });

  it('classify prints JSON, an image a line', async () => {
    const { documents } = await lgdistill(['classify', join(photos, 'circle/0.png'), '--student', student, '--json']);
    const [image, summary] = documents();
    expect(image).toMatchObject({ image: join(photos, 'circle/0.png'), names: [{}, {}, {}] });
    expect(summary).toMatchObject({ student, images: 1, names: 3, broken: [], remarks: [] });
  });

  it('classify writes a table, or JSON', async () => {
    const table = at('new', 'a.csv');
    const args = ['classify', photos, '--student', student, '--top', '2'];
    const { stdout } = await lgdistill([...args, '--output', table]);
    expect(stdout).toMatch(/12 images\n\nname +images\n/u);
    const [head, ...lines] = (await readFile(table, 'utf8')).trimEnd().split('\n');
    expect(head).toBe('image,name,cosine,name 2,cosine 2');
    expect(lines).toHaveLength(12);
    await lgdistill([...args, '--output', at('a.jsonl')]);
    const [first] = (await readFile(at('a.jsonl'), 'utf8')).split('\n');
    const { image, names } = JSON.parse(first!) as { image: string; names: { name: string; cosine: number }[] };
    expect([image, ...names.flatMap(({ name, cosine: value }) => [name, value.toFixed(4)])].join(',')).toBe(lines[0]);
    expect((await lgdistill([...args, '--output', table])).code).toBe(0); // its own kind is replaced
  });

  it.each([
    ['a.txt', /the ending does not say what to write/u],
    ['notes.csv', /not a table of names of images/u],
  ])('classify does not write %s', async (name, reason) => {
    await writeFile(at(name), 'mine');
    const { code, stderr } = await lgdistill(['classify', photos, '--student', student, '--output', at(name)]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(reason)]);
    expect(await readFile(at(name), 'utf8')).toBe('mine');
  });

  it('embed writes a file that is a teacher', async () => {
    const output = at('embedded', 'rows.safetensors');
    const { code, stdout } = await lgdistill(['embed', photos, '--student', student, '--to', output]);
    expect([code, stdout]).toEqual([0, `${output}: 12 images, 24 values each, by ${student}\n`]);
    await using rows = await loadTeacher(output, { device });
    expect(rows).toMatchObject({ kind: 'precomputed', size: 12, embeddingSize: 24, resolution: 64 });
  });

  it('embed does not replace what it embeds with, and wants one model', async () => {
    const args = ['embed', photos, '--to', student];
    const { code, stderr } = await lgdistill([...args, '--student', student]);
    expect([code, stderr]).toEqual([2, expect.stringContaining('this file is what it would be made from')]);
    expect((await lgdistill(args)).stderr).toContain('Give one of --student and --teacher');
  });
});
