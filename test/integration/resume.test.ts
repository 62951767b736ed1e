/** Runs that were stopped and go on, and distillers that have taken steps: to the bit what they would be. */
import { readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { openJpegDecoder } from '../../lib/data/jpeg-decoder.js';
import { BatchPlan } from '../../lib/data/loader.js';
import { CheckpointStore } from '../../lib/runs/checkpoint-store.js';
import { readRunLog } from '../../lib/runs/run-log.js';
import type { RunEvent } from '../../lib/train/events.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { ofType, sameBits, smallConfig, train } from '../fixtures/tiny.js';
import { expectSame, ResumedRuns, trainAndStop } from './resume-fixture.js';

const made = new ResumedRuns();
const { output, quick, unbrokenRun } = made;

describe('a run that was stopped and resumed', () => {
  it.each<[string, ConfigInput, number[]]>([
    ['once, in the middle of an epoch', { evaluate: { data: '' } }, [3]],
    ['three times', { checkpoint: { everyEpochs: 0 } }, [1, 4, 6]],
    [
      'once, by AdamW with gradients clipped',
      {
        checkpoint: { everyEpochs: 0 },
        train: { optimizer: 'adamw', learningRate: 0.01, clipNorm: 0.01, accumulate: 2, batchSize: 4 },
      },
      [3],
    ],
    ['twice, by AdamW', { checkpoint: { everyEpochs: 0 }, train: { optimizer: 'adamw', learningRate: 0.01 } }, [2, 5]],
    [
      'with accumulation across epochs, a queue, dropout and stochastic depth',
      {
        method: 'hybrid',
        loss: { queueSize: 40 },
        student: { name: 'efficientnet_b0' },
        data: { resolution: 32 },
        train: { batchSize: 4, accumulate: 3, epochs: 2 },
      },
      [3],
    ],
  ])('ends as the unbroken one: %s', async (_, more, stops) => {
    const width = more.student === undefined ? 0.35 : 1;
    const config = (path: string) =>
      smallConfig(made.data, path, {
        ...more,
        student: { ...more.student, widthMultiplier: width },
        evaluate: more.evaluate && { data: made.labelled },
      });
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
    for (const [name, values] of Object.entries(weights))
      expect(sameBits(values, resumed.weights[name]!), name).toBe(true);
    await expectSame(broken, whole);
  });

  it('makes up for an evaluation that the stop kept from being made', async () => {
    const config = (path: string) =>
      smallConfig(made.data, path, { evaluate: { data: made.labelled }, train: { epochs: 2 } });
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
    await trainAndStop(smallConfig(made.data, run, views), 1);
    const file = join(run, 'log.txt');
    const first = await readFile(file, 'utf8');
    await writeFile(file, first.replaceAll(/^20\d\d/gmu, '2020')); // years ago
    await train(await resumeConfig(run), { resume: 'last' });
    await rm(join(run, 'checkpoints'), { recursive: true });
    await writeFile(file, (await readFile(file, 'utf8')).replaceAll(/^20(?!20)\d\d/gmu, '2021'));
    await train(await resumeConfig(run), { resume: 'last' }); // from the start
    const text = await readFile(file, 'utf8');
    expect(text.match(/ (start at|resumed from|there is no checkpoint yet|teacher views)/gu)).toEqual([
      ' start at',
      ' teacher views',
      ' start at',
      ' resumed from',
      ' teacher views',
      ' start at',
      ' there is no checkpoint yet',
      ' teacher views',
    ]);
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
    await store.write(
      { ...rest, progress: { ...(progress as object), jpegDecoder: 'another', computed: 'a GPU by wgmma' } },
      { best: null, isBest: false, keep: 2 },
    );
    const log = () => readFile(join(run, 'log.txt'), 'utf8');
    expect(await log()).not.toMatch(/were (decoded|computed) (by|on)/u);
    await train(await resumeConfig(run, { 'train.maxSteps': 6 }), { resume: 'last' });
    expect(await log()).toContain(
      `JPEG files were decoded by another so far and are by ${openJpegDecoder().name} from here on`,
    );
    expect(await log()).toContain('steps were computed on a GPU by wgmma so far and are on the CPU from here on');
  });

  it('may end earlier first, and starts over where it has no checkpoint yet', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 5 } }));
    await train(await resumeConfig(broken, { 'train.maxSteps': 9 }), { resume: 'last' });
    const { events } = await train(await resumeConfig(broken, { 'train.maxSteps': '16' }), { resume: 'last' });
    expect(events.at(-1)).toMatchObject({ type: 'done', step: 16 });
    await expectSame(broken, whole);
    expect((await train(await resumeConfig(broken), { resume: 'last' })).events.map(({ type }) => type)).toEqual([
      'start',
      'done',
    ]);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    expect((await train(await resumeConfig(broken), { resume: 'last' })).events[0]).toMatchObject({ step: 0 });
    await expectSame(broken, whole);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    await writeFile(
      join(broken, 'start.json'),
      JSON.stringify({ student: 'a network that the program which began the run made itself' }),
    );
    const decoded = vi.fn();
    const onProgress = ({ phase }: { phase: string }) => {
      if (phase === 'training images') decoded();
    };
    await expect(prepareRun(await resumeConfig(broken), { resume: 'last', onProgress })).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      option: 'student',
    });
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
    for (const [resume, message] of [
      ['last', /has no checkpoint to continue from, .* has taken [23]\./u],
      [undefined, /this Distiller has taken [23]\./u],
    ] as const) {
      await expect(lossesUntil(distiller.run(dataset, { resume }))).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: 'resume',
        message: expect.stringMatching(message) as unknown,
        mend,
      });
    }
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toBe(log);
    expect(await readdir(path)).not.toContain('run.lock');
  });

  it("of the caller's own loop neither, until it is put back", async () => {
    const path = output();
    await using run = await prepareRun(quick(path, { train: { maxSteps: 3 } }));
    const { distiller, dataset } = run;
    const start = await distiller.state();
    await distiller.queueStep([{ ...new BatchPlan(dataset, { batchSize: 8, seed: 1 }).next(), dataset }], {
      step: 0,
      learningRate: 0.1,
    });
    await expect(lossesUntil(run.run())).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('has taken 1.') as unknown,
    });
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
    await expect(lossesUntil(run.run())).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('has taken 16.') as unknown,
    });
  });
});

describe('a checkpoint that a kill left without its links', () => {
  it('is come to again, and no copy of it is written', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 12 } }));
    const checkpoints = join(broken, 'checkpoints');
    const before = await readdir(checkpoints);
    const earlier = before.filter((name) => name.startsWith('step-')).sort()[0]!;
    await rm(join(checkpoints, 'last'));
    await symlink(earlier, join(checkpoints, 'last'));
    const { events } = await train(await resumeConfig(broken, { 'train.maxSteps': 12 }), { resume: 'last' });
    expect(events[0]).toMatchObject({ type: 'start', step: 8 });
    expect(await readdir(checkpoints)).toEqual(before);
    await train(await resumeConfig(broken, { 'train.maxSteps': 16 }), { resume: 'last' });
    await expectSame(broken, whole);
  });
});

describe('a damaged checkpoint', () => {
  it('is refused, and the one before it serves when it is asked for', async () => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 12 } }));
    const file = join(broken, 'checkpoints', 'last', 'state.safetensors');
    await truncate(file, (await readFile(file)).length >> 1);
    const config = await resumeConfig(broken, { 'train.maxSteps': 16 });
    await expect(train(config, { resume: 'last' })).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('state.safetensors') as unknown,
    });
    const { events } = await train(config, { resume: 'previous' });
    expect(events[0]).toMatchObject({ type: 'start', step: 8 });
    await expectSame(broken, whole);
  });
});
