import { spawn, spawnSync } from 'node:child_process';
import { cp, mkdir, readFile, readdir, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { addonPath } from '../../lib/addon.js';
import type { ConfigInput } from '../../lib/config.js';
import { openJpegDecoder } from '../../lib/data/jpeg-decoder.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { CheckpointStore } from '../../lib/runs/checkpoint.js';
import { readRunLog } from '../../lib/runs/run-log.js';
import type { RunEvent } from '../../lib/train/events.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { lgdistill } from '../cli/program.js';
import { bundleChild } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNumbers } from '../fixtures/random.js';
import { drawShapes, madeUpTeacher, ofType, sameBits, shapeNames, smallConfig, tinyClip, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const bundle = await bundleChild('test/integration/resume-child.ts');
let data: string;
let labelled: string;
let small: { data: string; teacher: string; bank: string };
let runs = 0;
const output = () => join(folder, `run-${runs++}`);

beforeAll(async () => {
  data = await drawShapes(join(folder, 'train'), { count: 8 });
  labelled = await drawShapes(join(folder, 'test'), { count: 2, seed: 2 });
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  await knowAlso(teacher, 'circle/9.png');
  small = { teacher, bank, data: await drawShapes(join(folder, 'small'), { count: 8, size: 32 }) };
});

/** Adds an image to a teacher of embeddings. */
async function knowAlso(teacher: string, id: string): Promise<void> {
  const known = await PrecomputedTeacher.load(teacher);
  const ids = shapeNames.flatMap((name) => Array.from({ length: 8 }, (_, i) => `${name}/${i}.png`));
  const rows = Float32Array.of(...known.lookup(ids), ...known.lookup(ids.slice(0, 1)));
  await PrecomputedTeacher.save(teacher, [...ids, id], rows, { resolution: 32 });
}

/** Changes one weight of a model. */
async function changeWeight(file: string): Promise<void> {
  const { tensors, metadata } = await readSafetensors(file);
  (tensors.get('visual.conv1.weight')!.data as Float32Array)[0]! += 1e-3;
  await writeSafetensors(file, [...tensors], metadata);
}

/** Everything a run ends with must be the same to the bit: model, momentum, banks, queue, sampler, losses; and the metrics but for their rates. */
async function expectSame(broken: string, whole: string): Promise<void> {
  const last = (run: string, file: string) => readFile(join(run, 'checkpoints', 'last', file));
  const [a, b] = await Promise.all([broken, whole].map((run) => readSafetensors(join(run, 'checkpoints', 'last', 'model.safetensors'))));
  for (const [name, { data: values }] of b!.tensors) expect(sameBits(values as Float32Array, a!.tensors.get(name)!.data as Float32Array), name).toBe(true);
  for (const file of ['model.safetensors', 'state.safetensors']) expect((await last(broken, file)).equals(await last(whole, file)), file).toBe(true);
  expect(await metricsOf(broken)).toEqual(await metricsOf(whole));
}

async function metricsOf(run: string): Promise<unknown[]> {
  const lines = (await readFile(join(run, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  return lines.map((line) => {
    const { imagesPerSecond, dataWait, teacherWait, seconds, time, ...rest } = JSON.parse(line) as Record<string, unknown>;
    expect([imagesPerSecond ?? seconds, dataWait ?? 0, teacherWait ?? 0, time].every(Number.isFinite)).toBe(true);
    return rest;
  });
}

/** Trains and stops after a step, as Ctrl-C does. */
async function trainAndStop(config: ConfigInput, step: number, resume?: string): Promise<void> {
  const controller = new AbortController();
  const { events } = await train(config, { resume, signal: controller.signal, onEvent: (event) => event.type === 'step' && event.step >= step && controller.abort() });
  expect(events.at(-1)!.type).toBe('interrupted');
}

/** No teacher to compute: for what is tried often. */
const quick = (path: string, more: ConfigInput = {}): ConfigInput => ({
  ...smallConfig(small.data, path, { teacher: small.teacher, bank: small.bank, ...more, train: { epochs: 4, ...more.train } }), names: undefined,
});

/** The folder of `quick`'s unbroken run, made by the first that asks: to compare with, and not to change. */
let unbroken: Promise<string> | undefined;
const unbrokenRun = () => (unbroken ??= (async () => {
  const path = output();
  await train(quick(path));
  return path;
})());

describe('a run that was stopped and resumed', () => {
  it.each<[string, ConfigInput, number[]]>([
    ['once, in the middle of an epoch', { evaluate: { data: '' } }, [3]],
    ['three times', { checkpoint: { everyEpochs: 0 } }, [1, 4, 6]],
    ['with accumulation across epochs, a queue, dropout and stochastic depth', {
      method: 'hybrid', loss: { queueSize: 40 }, student: { name: 'efficientnet_b0' }, data: { resolution: 32 }, train: { batchSize: 4, accumulate: 3, epochs: 2 },
    }, [3]],
  ])('ends as the unbroken one: %s', async (_, more, stops) => {
    const width = more.student === undefined ? 0.35 : 1;
    const config = (path: string) => smallConfig(data, path, { ...more, student: { ...more.student, widthMultiplier: width }, evaluate: more.evaluate && { data: labelled } });
    const [whole, broken] = [output(), output()];
    const { events, weights } = await train(config(whole));
    let resume: string | undefined;
    for (const step of stops) {
      await trainAndStop(config(broken), step, resume);
      resume = 'last';
    }
    const resumed = await train(await resumeConfig(broken), { resume });
    expect(resumed.events[0]).toMatchObject({ type: 'start', step: expect.any(Number) as unknown });
    expect(ofType(resumed.events, 'start')[0]!.step).toBeGreaterThanOrEqual(stops.at(-1)!);
    expect(ofType(resumed.events, 'start')[0]!.step).toBeLessThan(ofType(events, 'done')[0]!.step);
    for (const [name, values] of Object.entries(weights)) expect(sameBits(values, resumed.weights[name]!), name).toBe(true);
    await expectSame(broken, whole);
  });

  it('makes up for an evaluation that the stop kept from being made', async () => {
    const config = (path: string) => smallConfig(data, path, { evaluate: { data: labelled }, train: { epochs: 2 } });
    const [whole, broken] = [output(), output()];
    await train(config(whole));
    await trainAndStop(config(broken), 4);
    const { events } = await train(config(broken), { resume: 'last' });
    expect(events.slice(0, 2).map(({ type, step }) => `${type} ${step}`)).toEqual(['start 4', 'evaluation 4']);
    await expectSame(broken, whole);
  });

  it('does not count the pause as its time', async () => {
    const run = output();
    const views = { teacherCache: { views: 1 } };
    await trainAndStop(smallConfig(data, run, views), 1);
    const file = join(run, 'log.txt');
    const first = await readFile(file, 'utf8');
    await writeFile(file, first.replaceAll(/^20\d\d/gmu, '2020')); // years ago
    await train(await resumeConfig(run), { resume: 'last' });
    await rm(join(run, 'checkpoints'), { recursive: true });
    await writeFile(file, (await readFile(file, 'utf8')).replaceAll(/^20(?!20)\d\d/gmu, '2021'));
    await train(await resumeConfig(run), { resume: 'last' }); // from the start
    const text = await readFile(file, 'utf8');
    expect(text.match(/ (start at|resumed from|there is no checkpoint yet|teacher views)/gu)).toEqual([' start at', ' teacher views', ' start at', ' resumed from', ' teacher views', ' start at', ' there is no checkpoint yet', ' teacher views']);
    expect(readRunLog(text)).toMatchObject({ sessions: { length: 3 }, outcome: 'done' });
    expect(readRunLog(text).seconds).toBeLessThan(60);
  });

  it('says where JPEG files are decoded by something else than before, and steps computed', async () => {
    const run = output();
    await train(quick(run, { train: { maxSteps: 4 } }));
    const store = await CheckpointStore.open(run);
    const { folder: last, progress, ...rest } = await store.read('last');
    expect(progress).toMatchObject({ jpegDecoder: openJpegDecoder().name, computed: 'the CPU' });
    await rm(last, { recursive: true });
    await store.write({ ...rest, progress: { ...(progress as object), jpegDecoder: 'another', computed: 'a GPU by wgmma' } }, { best: null, isBest: false, keep: 2 });
    const log = () => readFile(join(run, 'log.txt'), 'utf8');
    expect(await log()).not.toMatch(/were (decoded|computed) (by|on)/u);
    await train(await resumeConfig(run, { 'train.maxSteps': 6 }), { resume: 'last' });
    expect(await log()).toContain(`JPEG files were decoded by another so far and are by ${openJpegDecoder().name} from here on`);
    expect(await log()).toContain('steps were computed on a GPU by wgmma so far and are on the CPU from here on');
  });

  it('may end earlier first, and starts over where it has no checkpoint yet', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 5 } }));
    await train(await resumeConfig(broken, { 'train.maxSteps': 9 }), { resume: 'last' });
    const { events } = await train(await resumeConfig(broken, { 'train.maxSteps': '16' }), { resume: 'last' });
    expect(events.at(-1)).toMatchObject({ type: 'done', step: 16 });
    await expectSame(broken, whole);
    expect((await train(await resumeConfig(broken), { resume: 'last' })).events.map(({ type }) => type)).toEqual(['start', 'done']);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    expect((await train(await resumeConfig(broken), { resume: 'last' })).events[0]).toMatchObject({ step: 0 });
    await expectSame(broken, whole);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    await writeFile(join(broken, 'start.json'), JSON.stringify({ student: 'a network that the program which began the run made itself' }));
    const decoded = vi.fn();
    const onProgress = ({ phase }: { phase: string }) => { if (phase === 'training images') decoded(); };
    await expect(prepareRun(await resumeConfig(broken), { resume: 'last', onProgress })).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', option: 'student' });
    expect(decoded).not.toHaveBeenCalled();
  });
});

describe('a distiller that has taken steps', () => {
  /** Of the steps until the loop is left. */
  async function lossesUntil(events: AsyncIterable<RunEvent>, last = Infinity): Promise<number[]> {
    const losses: number[] = [];
    for await (const event of events) {
      if (event.type === 'step') losses.push(event.loss);
      if (event.type === 'step' && event.step >= last) break;
    }
    return losses;
  }

  it('does not begin a run from the start, and leaves its folder as it was', async () => {
    const path = output();
    await using run = await prepareRun(quick(path));
    expect(await lossesUntil(run.run(), 2)).toHaveLength(2);
    const log = await readFile(join(path, 'log.txt'), 'utf8');
    const { distiller, dataset } = run;
    const mend = expect.stringMatching(/^Make a new Distiller with a new student/u) as unknown;
    for (const [resume, message] of [['last', /has no checkpoint to continue from, .* has taken [23]\./u], [undefined, /this Distiller has taken [23]\./u]] as const) {
      await expect(lossesUntil(distiller.run(dataset, { resume }))).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'resume', message: expect.stringMatching(message) as unknown, mend });
    }
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toBe(log);
    expect(await readdir(path)).not.toContain('run.lock');
  });

  it('of the caller\'s own loop neither, until it is put back', async () => {
    const path = output();
    await using run = await prepareRun(quick(path, { train: { maxSteps: 3 } }));
    const { distiller, dataset } = run;
    const start = await distiller.state();
    await distiller.queueStep([{ ...new BatchPlan(dataset, { batchSize: 8, seed: 1 }).next(), dataset }], { step: 0, learningRate: 0.1 });
    await expect(lossesUntil(run.run())).rejects.toMatchObject({ code: 'BAD_OPTION', message: expect.stringContaining('has taken 1.') as unknown });
    expect(await readdir(path)).toEqual([]);
    distiller.restore(start);
    expect(await lossesUntil(run.run())).toHaveLength(3);
  });

  it('goes back to a checkpoint', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await using run = await prepareRun(quick(broken));
    const first = await lossesUntil(run.run(), 6);
    const again = await lossesUntil(run.distiller.run(run.dataset, { resume: 'last' }));
    expect(again.slice(0, 2)).toEqual(first.slice(4));
    await expectSame(broken, whole);
    await expect(lossesUntil(run.run())).rejects.toMatchObject({ code: 'BAD_OPTION', message: expect.stringContaining('has taken 16.') as unknown });
  });
});

describe('the file of weights that a run was started from', () => {
  it('is not needed by one that goes on: where it is gone, or another, a line says so', async () => {
    const [donor, whole, broken, file] = [output(), output(), output(), join(folder, 'start.safetensors')];
    await train(quick(donor, { train: { maxSteps: 1 } }));
    await cp(join(donor, 'checkpoints', 'last', 'model.safetensors'), file);
    await train(quick(whole, { student: { weights: file } }));
    await train(quick(broken, { student: { weights: file }, train: { maxSteps: 5 } }));
    const goOn = async (step: number) => ofType((await train(await resumeConfig(broken, { 'train.maxSteps': step }), { resume: 'last' })).events, 'start')[0]!;
    expect(await goOn(7)).not.toHaveProperty('remarks');
    await writeFile(file, 'something else');
    const changed = `student.weights ${file} is not the file that the run was started from: the run goes on with the weights of its checkpoint`;
    expect(await goOn(9)).toMatchObject({ step: 7, remarks: [changed] });
    await rm(file);
    const gone = `student.weights ${file} cannot be read any more: the run goes on with the weights of its checkpoint, and needs no others`;
    const { code, stdout } = await lgdistill(['resume', broken, '--max-steps', '16', '--no-report']);
    expect([code, stdout.split(`\n${gone}\n`).length]).toEqual([0, 2]);
    expect(await goOn(16)).toMatchObject({ step: 16, remarks: [gone] });
    const log = await readFile(join(broken, 'log.txt'), 'utf8');
    expect([changed, gone].map((line) => log.split(line).length - 1)).toEqual([1, 2]); // once each time
    await expectSame(broken, whole);
    await rm(join(broken, 'checkpoints'), { recursive: true }); // then it starts from the file again
    await expect(train(await resumeConfig(broken), { resume: 'last' })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});

describe('the text bank', () => {
  it.each([['the configuration names none', undefined], ['its file is gone', 'gone.safetensors']])('is that of the checkpoint where %s', async (_, bank) => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 12 } }));
    await train({ ...(await resumeConfig(broken, { 'train.maxSteps': 16 })), bank: bank && join(folder, bank) }, { resume: 'last' });
    await expectSame(broken, whole);
  });

  it('is that of the checkpoint where the files of its names and templates are gone, and a line says so', async () => {
    const [whole, broken, names, templates] = [output(), output(), join(folder, 'names.txt'), join(folder, 'templates.txt')];
    const config = (path: string, more: ConfigInput = {}): ConfigInput => ({
      ...quick(path, { teacher: tinyClip, bank: undefined, templates, data: { resolution: 32 }, evaluate: { data: labelled, names }, ...more }), names,
    });
    const goOn = async (overrides: Record<string, unknown> = {}) => train(await resumeConfig(broken, { 'train.maxSteps': 16, ...overrides }), { resume: 'last' });
    await writeFile(names, shapeNames.join('\n'));
    await writeFile(templates, 'a photo of a {}.');
    await train(config(whole));
    await train(config(broken, { train: { maxSteps: 12 } }));
    const others = [
      [names, [...shapeNames].reverse().join('\n'), 'the names come in another order'],
      [names, [...shapeNames.slice(1), 'ring', 'star'].join('\n'), 'the names lack "circle", and "ring", "star" are new among the names'],
      [templates, 'a drawing of a {}.', 'the templates are "a drawing of a {}." and were "a photo of a {}."'],
    ] as const;
    for (const [file, text, what] of others) { // which are no missing ones
      const before = await readFile(file);
      await writeFile(file, text);
      await expect(goOn({ 'evaluate.names': shapeNames })).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', option: 'bank', message: expect.stringContaining(`another text bank: ${what}.`) as unknown });
      await writeFile(file, before);
    }
    await writeFile(names, '');
    await expect(goOn()).rejects.toMatchObject({ code: 'BAD_NAMES' });
    await rm(names);
    await rm(templates);
    const remarks = [`names ${names}`, `templates ${templates}`].map((what) => `${what} is not there any more: the run goes on with what its checkpoint keeps of it`);
    expect(ofType((await goOn()).events, 'start')).toMatchObject([{ step: 12, remarks }]);
    const log = await readFile(join(broken, 'log.txt'), 'utf8');
    for (const remark of remarks) expect(log.split(remark)).toHaveLength(2);
    await expectSame(broken, whole);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    await expect(goOn()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', option: 'names', found: names, mend: expect.stringContaining('now: --names NEW') as unknown });
  });
});

describe('the teacher', () => {
  const resumeWith = async (run: string, teacher: string, step: number) => train({ ...(await resumeConfig(run, { 'train.maxSteps': step })), teacher }, { resume: 'last' });
  const refusal = async (run: string, teacher: string) => resumeWith(run, teacher, 3).then(() => undefined, (error: unknown) => error as Error);
  /** Writes the embeddings that the small teacher has, changed, under a name. */
  async function embeddingsLike(name: string, change: (row: number, value: number) => number, order: (ids: string[]) => string[] = (ids) => ids): Promise<string> {
    const known = await PrecomputedTeacher.load(small.teacher);
    const ids = order(shapeNames.flatMap((shape) => Array.from({ length: 8 }, (_, i) => `${shape}/${i}.png`)));
    const file = join(folder, 'elsewhere', name);
    await mkdir(join(folder, 'elsewhere'), { recursive: true });
    await PrecomputedTeacher.save(file, ids, known.lookup(ids).map((value, i) => change(Math.floor(i / 16), value)), { resolution: 32 });
    return file;
  }

  it('is the same at another place and by another name, its embeddings in another order', async () => {
    const [whole, broken] = [output(), output()];
    await train(quick(whole, { train: { maxSteps: 6 } }));
    await train(quick(broken, { train: { maxSteps: 2 } }));
    const moved = await embeddingsLike('renamed.safetensors', (_, value) => value, (ids) => ids.reverse());
    const { weights } = await resumeWith(broken, moved, 6);
    expect(await readFile(join(broken, 'log.txt'), 'utf8')).toContain(`teacher is ${moved} from here on and was ${small.teacher}: the same one`);
    const { tensors } = await readSafetensors(join(whole, 'checkpoints', 'last', 'model.safetensors'));
    for (const [name, values] of Object.entries(weights)) expect(sameBits(values, tensors.get(name)!.data as Float32Array), name).toBe(true);
  });

  it('is refused with other embeddings under the same name', async () => {
    const run = output();
    await train(quick(run, { train: { maxSteps: 2 } }));
    const other = await embeddingsLike(basename(small.teacher), (row, value) => (row === 9 ? 1.01 * value : value));
    expect(await refusal(run, other)).toMatchObject({ code: 'BAD_CHECKPOINT', option: 'teacher', message: expect.stringContaining('another teacher: the embedding of square/1.png is not what it was') as unknown });
    expect(await refusal(run, other)).toMatchObject({ mend: expect.stringContaining('(--teacher), or begin a new run from its student: --weights') as unknown });
  });

  it('is refused with other weights under the same name', async () => {
    const [run, clip] = [output(), join(folder, 'clips', basename(tinyClip))];
    const config = (teacher: string) => quick(run, { teacher, bank: undefined, data: { resolution: 32 }, train: { maxSteps: 2 } });
    const first = await train({ ...config(tinyClip), names: shapeNames });
    expect(first.events.at(-1)).toMatchObject({ type: 'done' });
    await cp(tinyClip, clip, { recursive: true });
    const same = await resumeWith(run, clip, 3);
    expect(same.events.at(-1)).toMatchObject({ type: 'done', step: 3 });
    await changeWeight(join(clip, 'visual.safetensors'));
    const error = await resumeWith(run, clip, 4).then(() => undefined, (caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'BAD_CHECKPOINT', option: 'teacher', message: expect.stringMatching(/Found: "tiny-clip \(native\), .*fingerprint [0-9a-f]{12}"\. Allowed: tiny-clip \(native\), .*fingerprint [0-9a-f]{12}\./u) as unknown });
  });
});

describe('a damaged checkpoint', () => {
  it('is refused, and the one before it serves when it is asked for', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 12 } }));
    const file = join(broken, 'checkpoints', 'last', 'state.safetensors');
    await truncate(file, (await readFile(file)).length >> 1);
    const config = await resumeConfig(broken, { 'train.maxSteps': 16 });
    await expect(train(config, { resume: 'last' })).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', message: expect.stringContaining('state.safetensors') as unknown });
    const { events } = await train(config, { resume: 'previous' });
    expect(events[0]).toMatchObject({ type: 'start', step: 8 });
    await expectSame(broken, whole);
  });
});

describe('what does not belong to the run', () => {
  let run: string;
  beforeAll(async () => {
    run = output();
    await train(quick(run, { train: { maxSteps: 2 } }));
  });
  it.each<[string, () => ConfigInput | Promise<ConfigInput>, string]>([
    ['another seed', () => quick(run, { seed: 4 }), 'seed'],
    ['another batch size', () => quick(run, { train: { batchSize: 4 } }), 'train.batchSize'],
    ['other batches a step', () => quick(run, { train: { accumulate: 2 } }), 'train.accumulate'],
    ['another student', () => quick(run, { student: { widthMultiplier: 0.5 } }), 'student.widthMultiplier'],
    ['another method', () => quick(run, { method: 'text' }), 'method'],
    ['another input size', () => quick(run, { data: { resolution: 48 } }), 'data.resolution'],
    ['fewer images', async () => {
      const fewer = join(folder, 'fewer');
      await cp(small.data, fewer, { recursive: true });
      await rm(join(fewer, 'circle', '3.png'));
      return quick(run, { data: { train: fewer } });
    }, 'data.train'],
    ['another image in the place of one', async () => {
      const other = join(folder, 'other');
      await cp(small.data, other, { recursive: true });
      await rm(join(other, 'circle', '3.png'));
      await cp(join(small.data, 'circle', '3.png'), join(other, 'circle', '9.png'));
      return quick(run, { data: { train: other } });
    }, 'data.train'],
  ])('is refused: %s', async (_, config, option) => {
    const before = (await readdir(join(run, 'checkpoints'))).sort();
    const error = await train(await config(), { resume: 'last' }).then(() => undefined, (caught: { code: string; option?: string }) => caught);
    expect(error).toMatchObject({ code: 'BAD_CHECKPOINT', option });
    expect((await readdir(join(run, 'checkpoints'))).sort()).toEqual(before);
  });

  it('is a folder that is no run', async () => {
    await mkdir(join(folder, 'plain'), { recursive: true });
    await expect(resumeConfig(join(folder, 'plain'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(resumeConfig(join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(prepareRun(quick(run))).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
  });
});

describe('a run that is ended', () => {
  it('by a disk without room says so, leaves nothing half written, and goes on once there is room', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 4 } }));
    const file = join(folder, 'full.json');
    await writeFile(file, JSON.stringify(quick(broken)));
    // A limit on the size of files stands for a full disk: it, too, fails in the middle of a write.
    const result = spawnSync('bash', ['-c', `ulimit -f 256; exec "$0" "$@"`, process.execPath, bundle, file, 'last'], { env: { ...process.env, LGDISTILL_ADDON: addonPath() }, encoding: 'utf8' });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('NOT_WRITABLE');
    expect(result.stdout.trim().split('\n').at(-1)).toBe('step 8');
    expect((await readdir(broken)).sort()).toEqual(['checkpoints', 'config.json', 'images.tsv.gz', 'log.txt', 'metrics.jsonl', 'start.json']);
    expect((await readdir(join(broken, 'checkpoints'))).sort()).toEqual(['best', 'last', 'step-00000004']);
    await train(await resumeConfig(broken), { resume: 'last' });
    await expectSame(broken, whole);
  });

  it('by a log that takes no more says so', async () => {
    const path = output();
    await train(quick(path, { train: { maxSteps: 2 } }));
    await rm(join(path, 'log.txt'));
    await symlink('/dev/full', join(path, 'log.txt'));
    await expect(train(await resumeConfig(path), { resume: 'last' })).rejects.toMatchObject({ code: 'NOT_WRITABLE', message: expect.stringContaining('the disk is full') as unknown });
  });

  /** Runs the child; with `kill`, ends it some milliseconds after it printed so many lines. */
  async function child(args: string[], kill: { lines: number; delay: number } | undefined): Promise<{ killed: boolean; lines: string[] }> {
    const started = spawn(process.execPath, [bundle, ...args], { env: { ...process.env, LGDISTILL_ADDON: addonPath() }, stdio: ['ignore', 'pipe', 'pipe'] });
    let [text, problems] = ['', ''];
    let timer: NodeJS.Timeout | undefined;
    const lines = () => text.split('\n').slice(0, -1);
    started.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (kill !== undefined && lines().length >= kill.lines) timer ??= setTimeout(() => started.kill('SIGKILL'), kill.delay);
    });
    started.stderr.on('data', (chunk: Buffer) => (problems += chunk.toString()));
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => started.on('close', (...result) => resolve(result)));
    clearTimeout(timer);
    expect([code, signal, problems]).toEqual(signal === 'SIGKILL' ? [null, 'SIGKILL', ''] : [0, null, '']);
    return { killed: signal === 'SIGKILL', lines: lines() };
  }

  it('by kill -9 at random moments, again and again, ends as the unbroken one', async () => {
    const config = (path: string) => quick(path, { train: { epochs: 8 }, checkpoint: { everySteps: 1, keep: 2 }, evaluate: { data: labelled } });
    const [whole, broken] = [output(), output()];
    await train(config(whole));
    const file = join(folder, 'killed.json');
    await writeFile(file, JSON.stringify(config(broken)));
    const random = randomNumbers(Date.now());
    const kills: string[] = [];
    for (let resume: string[] = []; ; resume = ['last']) {
      const kill = kills.length < 4 ? { lines: 1 + Math.floor(random() * 6), delay: Math.floor(random() * 120) } : undefined; // a step and its checkpoint are two lines
      const { killed, lines } = await child([file, ...resume], kill);
      if (killed) kills.push(`${lines.at(-1)} + ${kill!.delay} ms`);
      else {
        expect(lines.at(-1)).toBe('done 32');
        break;
      }
    }
    console.log(`killed after: ${kills.join(', ')}`);
    expect(kills.length).toBeGreaterThan(2);
    await expectSame(broken, whole);
    expect((await readdir(join(broken, 'checkpoints'))).filter((name) => name.startsWith('.'))).toEqual([]);
  });
});
