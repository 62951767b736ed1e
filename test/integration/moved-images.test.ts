import { appendFile, cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { readCheckpoint } from '../../lib/runs/checkpoint.js';
import { loadTextEncoder } from '../../lib/text/load-encoder.js';
import { CategoryList } from '../../lib/text/names.js';
import type { EvaluationEvent } from '../../lib/train/events.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { writeTower } from '../fixtures/onnx.js';
import {
  drawShapes,
  madeUpTeacher,
  ofType,
  sameBits,
  shapeNames,
  smallConfig,
  tinyClip,
  train,
  type Outcome,
} from '../fixtures/tiny.js';

const folder = temporaryFolder();
let source: string;
let models: { teacher: string; bank: string };
let whole: Outcome;
let count = 0;

const config = (data: string, path: string, more: ConfigInput = {}): ConfigInput => ({
  ...smallConfig(data, path, {
    teacher: models.teacher,
    bank: models.bank,
    ...more,
    train: { epochs: 4, ...more.train },
  }),
  names: undefined,
});

/** A copy of the images with a run on it that was stopped after six steps of sixteen. */
async function stopped(): Promise<{ data: string; run: string }> {
  const [data, run] = [join(folder, `data-${count}`), join(folder, `run-${count++}`)];
  await cp(source, data, { recursive: true });
  await train(config(data, run, { train: { maxSteps: 6 } }));
  return { data, run };
}

const resume = async (run: string, data?: string) =>
  train(await resumeConfig(run, { 'train.maxSteps': 16, 'data.train': data }), { resume: 'last' });
const pathOf = async (run: string) =>
  (JSON.parse(await readFile(join(run, 'config.json'), 'utf8')) as { data: { train: string } }).data.train;

function expectSame(a: Outcome, b: Outcome): void {
  for (const [name, values] of Object.entries(a.weights)) expect(sameBits(values, b.weights[name]!), name).toBe(true);
}

beforeAll(async () => {
  source = await drawShapes(join(folder, 'source'), { count: 8, size: 32 });
  const { teacher, bank, ids } = await madeUpTeacher(join(folder, 'made-up'));
  const known = await PrecomputedTeacher.load(teacher);
  await PrecomputedTeacher.save(
    teacher,
    [...ids, 'square/9.png'],
    Float32Array.of(...known.lookup(ids), ...known.lookup(['square/1.png'])),
    { resolution: 32 },
  );
  models = { teacher, bank };
  whole = await train(config(source, join(folder, 'whole')));
});

describe('a run whose images were moved', () => {
  it('goes on with their new path to the same bits, and remembers it', async () => {
    const { data, run } = await stopped();
    await rename(data, `${data}-moved`);
    await expect(resume(run)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'data.train',
      found: data,
      mend: expect.stringContaining('--data NEW') as unknown,
    });
    expectSame(whole, await resume(run, `${data}-moved`));
    expect(await pathOf(run)).toBe(`${data}-moved`);
  });

  it('refuses other images, says what differs, and forgets the wrong path', async () => {
    const { data, run } = await stopped();
    const other = `${data}-other`;
    await cp(data, other, { recursive: true });
    await cp(join(other, 'square', '1.png'), join(other, 'square', '9.png'));
    await appendFile(join(other, 'cross', '0.png'), 'more');
    const error = await resume(run, other).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    expect(error).toMatchObject({ code: 'BAD_CHECKPOINT', option: 'data.train' });
    for (const part of ['32 then, 33 here', '1 are new (square/9.png)', '1 have another size (cross/0.png)'])
      expect((error as Error).message).toContain(part);
    expect(await pathOf(run)).toBe(data);
    await rm(join(other, 'square', '9.png'));
    await rm(join(other, 'circle', '3.png'));
    await cp(join(data, 'cross', '0.png'), join(other, 'cross', '0.png'));
    // a copy must be whole
    await expect(resume(run, other)).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('32 then, 31 here; 1 are not there (circle/3.png)') as unknown,
    });
    expectSame(whole, await resume(run));
  });

  it('of a version that kept no list is held to places and names', async () => {
    const { data, run } = await stopped();
    await rm(join(run, 'images.tsv.gz'));
    await rm(join(data, 'circle', '3.png'));
    await expect(resume(run)).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', option: 'data.train' });
    await cp(join(source, 'circle', '3.png'), join(data, 'circle', '3.png'));
    expectSame(whole, await resume(run));
  });

  it('says so when its list is damaged', async () => {
    const { run } = await stopped();
    await writeFile(join(run, 'images.tsv.gz'), 'no gzip');
    await expect(resume(run)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining('images.tsv.gz') as unknown,
    });
  });
});

describe('what else a run needs', () => {
  /** Trains a step with a path, moves its folder, and resumes without and with the new path. */
  async function move(option: string, flag: string, path: string, begun: ConfigInput): Promise<void> {
    const [run, place] = [join(folder, `run-${count++}`), dirname(path)];
    await train({ ...begun, output: run, train: { ...begun.train, maxSteps: 1 } });
    await rename(place, `${place}-moved`);
    await expect(train(await resumeConfig(run, { 'train.maxSteps': 2 }), { resume: 'last' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option,
      found: path,
      mend: expect.stringContaining(`now: ${flag} NEW`) as unknown,
    });
    const { events } = await train(
      await resumeConfig(run, { 'train.maxSteps': 2, [option]: join(`${place}-moved`, basename(path)) }),
      { resume: 'last' },
    );
    expect(events.at(-1)).toMatchObject({ type: 'done', step: 2 });
  }

  it.each([
    ['evaluate.train', '--evaluate.train'],
    ['evaluate.data', '--evaluate'],
  ])('can be moved, too: the images of %s', async (option, flag) => {
    const path = await drawShapes(join(folder, option, 'images'), { count: 2, size: 32 });
    const evaluate = {
      train: source,
      data: source,
      also: 'knn' as const,
      everyEpochs: 0,
      [option.split('.')[1]!]: path,
    };
    await move(option, flag, path, config(source, '', { evaluate }));
  });

  it.each(['embeddings.safetensors', 'clip', 'tower.onnx'])('can be moved, too: the teacher %s', async (name) => {
    const place = join(folder, `of-${name}`);
    const teacher = join(place, name);
    await mkdir(place);
    if (name === 'clip') await cp(tinyClip, teacher, { recursive: true });
    else if (name === 'tower.onnx') {
      writeTower(teacher, {
        weights: Float32Array.from({ length: 3 * 16 }, (_, i) => Math.sin(i + 1)),
        resolution: 32,
      });
      await writeFile(
        join(place, 'preprocessor_config.json'),
        JSON.stringify({ size: 32, image_mean: [0, 0, 0], image_std: [1, 1, 1] }),
      );
    } else await cp(models.teacher, teacher);
    const names = name === 'clip' ? { names: shapeNames, bank: undefined } : {};
    await move('teacher', '--teacher', teacher, {
      ...config(source, '', { teacher, data: { resolution: 32 } }),
      ...names,
    });
  });
});

describe('what a run is evaluated with', () => {
  const clip = (run: string, evaluate: ConfigInput['evaluate']): ConfigInput => ({
    ...config(source, run, { teacher: tinyClip, data: { resolution: 32 }, evaluate, train: { maxSteps: 1 } }),
    names: shapeNames,
    bank: undefined,
  });
  const goOn = async (run: string, step: number, overrides: Record<string, unknown>) =>
    train(await resumeConfig(run, { 'train.maxSteps': step, ...overrides }), { resume: 'last' });
  const namesOf = async (run: string) =>
    (JSON.parse(await readFile(join(run, 'config.json'), 'utf8')) as { evaluate: { names: string } }).evaluate.names;

  it('moves with its images where they are its names', async () => {
    const [run, labelled] = [
      join(folder, 'of-labelled'),
      await drawShapes(join(folder, 'labelled'), { count: 2, size: 32 }),
    ];
    await train(clip(run, { data: labelled, names: labelled }));
    await rename(labelled, `${labelled}-moved`);
    await expect(goOn(run, 2, {})).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'evaluate.data',
      mend: expect.stringContaining('now: --evaluate NEW') as unknown,
    });
    const { events } = await goOn(run, 2, { 'evaluate.data': `${labelled}-moved` });
    const remark = `evaluate.names is ${labelled}-moved from here on and was ${labelled}, which is gone: the names of the images' folder at its new place`;
    expect(ofType(events, 'start')).toMatchObject([{ step: 1, remarks: [remark] }]);
    expect(await readFile(join(run, 'log.txt'), 'utf8')).toContain(` ${remark}\n`);
    expect(await namesOf(run)).toBe(`${labelled}-moved`);
    expect(ofType((await goOn(run, 3, {})).events, 'start')[0]).not.toHaveProperty('remarks');
  });

  it.each([
    ['evaluate.names', 'names.txt', shapeNames.join('\n')],
    ['evaluate.mapping', 'mapping.json', '{}'],
    ['evaluate.bank', 'bank.safetensors', undefined],
  ])('can be given anew: %s', async (option, name, content) => {
    const [run, file] = [join(folder, `of-${option}`), join(folder, name)];
    if (content !== undefined) await writeFile(file, content);
    else
      await (
        await TextualSemanticsBank.build(await CategoryList.load(shapeNames), {
          encoder: await loadTextEncoder(tinyClip),
        })
      ).save(file);
    await train(clip(run, { data: source, [option.split('.')[1]!]: file }));
    await rename(file, `${file}-moved.${name.split('.')[1]!}`);
    const flag = option === 'evaluate.mapping' ? '--mapping' : `--${option}`;
    await expect(goOn(run, 2, {})).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option,
      found: file,
      mend: expect.stringContaining(`now: ${flag} NEW`) as unknown,
    });
    const { code, stderr } = await lgdistill([
      'resume',
      run,
      '--max-steps',
      '2',
      flag,
      `${file}-moved.${name.split('.')[1]!}`,
      '--no-report',
    ]);
    expect([code, stderr]).toEqual([0, expect.not.stringContaining('error')]);
  });
});

describe('scores of a run that goes on', () => {
  const scored = (run: string, data: string, learnt: string, maxSteps: number): ConfigInput => ({
    ...config(source, run, {
      teacher: tinyClip,
      data: { resolution: 32 },
      evaluate: { data, train: learnt, also: 'knn', metric: 'knn', everyEpochs: 0, everySteps: 1 },
      train: { maxSteps },
    }),
    names: shapeNames,
    bank: undefined,
  });
  const line = /^evaluation images or names are others than before/u;

  it('are compared with those of the same images alone: of others the teacher has its own, and the best is chosen anew', async () => {
    const [run, four, two] = [
      join(folder, 'scored'),
      await drawShapes(join(folder, 'four'), { count: 4, size: 32 }),
      await drawShapes(join(folder, 'two'), { count: 2, size: 32 }),
    ];
    await train(scored(run, four, four, 2));
    const goOn = async (data: string, learnt: string, maxSteps: number) => {
      const { events } = await train(scored(run, data, learnt, maxSteps), { resume: 'last' });
      const [{ student, teacher, best }] = ofType(events, 'evaluation') as [EvaluationEvent];
      return [
        ofType(events, 'start')[0]!.remarks?.filter((remark) => line.test(remark)).length ?? 0,
        student!.images,
        teacher?.images,
        best,
      ];
    };
    const marked = async () =>
      (await readCheckpoint(join(run, 'checkpoints', 'last'))).progress as { best: { value: number; step: number } };
    await rename(four, `${four}-moved`);
    expect((await goOn(`${four}-moved`, `${four}-moved`, 3)).slice(0, 3)).toEqual([0, 16, 16]);
    expect(await goOn(two, `${four}-moved`, 4)).toEqual([1, 8, 8, true]);
    expect((await marked()).best.step).toBe(4);
    expect(await goOn(two, two, 5)).toEqual([1, 8, 8, true]);
    expect((await goOn(two, two, 6)).slice(0, 3)).toEqual([0, 8, 8]);
  });
});

describe('images that are gone', () => {
  it('while a run goes on are not missed: it keeps them decoded', async () => {
    const [data, run] = [join(folder, 'vanishing'), join(folder, 'vanishing-run')];
    await cp(source, data, { recursive: true });
    const events: Promise<void>[] = [];
    expectSame(
      whole,
      await train(config(data, run), {
        onEvent: (event) =>
          event.type === 'step' && event.step === 2 && void events.push(rm(data, { recursive: true })),
      }),
    );
    await Promise.all(events);
  });

  it('when it goes on are counted, listed and stood in for, the same way each time, and are back when they are back', async () => {
    const { data, run } = await stopped();
    await cp(run, `${run}-copy`, { recursive: true, verbatimSymlinks: true });
    const kept = await readFile(join(data, 'triangle', '7.png'));
    await rm(join(data, 'triangle', '7.png'));
    const first = await resume(run);
    expect(ofType(first.events, 'start')[0]).toMatchObject({ step: 6, images: 31, broken: 1, stepsPerEpoch: 4 });
    expect(await readFile(join(run, 'broken-images.txt'), 'utf8')).toBe(
      'triangle/7.png\tit is gone since the run began\n',
    );
    expect(await readFile(join(run, 'log.txt'), 'utf8')).toContain('1 image is gone since the run began');
    expect(Object.entries(first.weights).some(([name, values]) => !sameBits(values, whole.weights[name]!))).toBe(true);
    expectSame(first, await train(await resumeConfig(`${run}-copy`, { 'train.maxSteps': 16 }), { resume: 'last' }));

    const again = await stopped();
    await rm(join(again.data, 'triangle', '7.png'));
    // a part of the way without it
    await train(await resumeConfig(again.run, { 'train.maxSteps': 7 }), { resume: 'last' });
    await writeFile(join(again.data, 'triangle', '7.png'), kept);
    const back = await resume(again.run);
    expect(ofType(back.events, 'start')[0]).toMatchObject({ step: 7, images: 32, broken: 0 });
    expect(await readdir(again.run)).not.toContain('broken-images.txt');
  });

  it('stop it where they are more than may be', async () => {
    const { data, run } = await stopped();
    for (const name of ['0', '1']) await rm(join(data, 'circle', `${name}.png`));
    const error = await resume(run).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    expect(error).toMatchObject({ code: 'TOO_MANY_BROKEN_IMAGES', option: 'data.maxBrokenShare', found: 2 / 32 });
    expect((error as Error).message).toContain(
      '2 of the 32 images that the run was begun with are gone: circle/0.png, circle/1.png',
    );
    await train(await resumeConfig(run, { 'train.maxSteps': 16, 'data.maxBrokenShare': 0.1 }), { resume: 'last' });
  });
});
