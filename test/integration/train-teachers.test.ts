import { cp, mkdir, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { type ConfigInput } from '../../lib/config/config.js';
import { openDevice } from '../../lib/device.js';
import { listCheckpoints, pointTo } from '../../lib/files/checkpoint-folders.js';
import { loadTeacher, PrecomputedTeacher, type NativeTeacher } from '../../lib/models/index.js';
import { findStudentFile } from '../../lib/runs/student-file.js';
import { madeUpTeacher, ofType, shapeNames, smallConfig, tinyClip, train, visionOnnx } from '../fixtures/tiny.js';
import { failure, ShapeRuns } from './train-fixture.js';

const { folder, data, output } = new ShapeRuns();

describe('teachers', () => {
  const firstLoss = async (more: ConfigInput) =>
    ofType(
      (await train(smallConfig(data, output(), { ...more, train: { maxSteps: 1, ...more.train } }))).events,
      'step',
    )[0]!;

  it('may be an earlier student, by its run, a checkpoint, what names one, or its file', async () => {
    const run = output();
    await train(smallConfig(data, run, { train: { maxSteps: 2 }, checkpoint: { everySteps: 1 } }));
    const checkpoint = (name: string) => join(run, 'checkpoints', name);
    using device = await openDevice('cpu');
    const mark = async (source: string) => ((await loadTeacher(source, { device })) as NativeTeacher).fingerprint();
    const [before, after] = (await listCheckpoints(run)).slice(-2) as [string, string];
    const [first, second] = [await mark(before), await mark(after)];
    expect(first).not.toBe(second);
    const marks = () =>
      Promise.all(
        [run, checkpoint('best'), checkpoint('last'), join(checkpoint('best'), 'model.safetensors')].map(mark),
      );
    await pointTo(run, 'best', basename(before));
    expect(await marks()).toEqual([first, first, second, first]);
    for (const [name, step] of Object.entries({ best: before, last: after })) {
      await rm(checkpoint(name)); // as on a file system without links
      await writeFile(checkpoint(name), `${basename(step)}\n`);
    }
    expect(await marks()).toEqual([first, first, second, first]);
    expect(await loadTeacher(checkpoint('best'), { device })).toMatchObject({ id: 'best' });
    expect(await loadTeacher(`${run}/checkpoints/..`, { device })).toMatchObject({ id: basename(run) });
    await pointTo(run, 'best', 'step-00000099'); // of which a copy lacks the folder
    expect(await mark(run)).toBe(second);
    await cp(join(before, 'model.safetensors'), join(run, 'model.safetensors'));
    expect(await mark(run)).toBe(first);
    expect(await findStudentFile(run)).toBe(join(run, 'model.safetensors'));
    const several = join(folder, 'several');
    for (const name of ['one', 'two']) await cp(run, join(several, name), { recursive: true });
    await expect(loadTeacher(several, { device })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      option: 'teacher',
      allowed: `${join(several, 'one')}, ${join(several, 'two')}`,
    });
    const early = join(folder, 'early');
    await mkdir(join(early, 'checkpoints'), { recursive: true });
    await expect(loadTeacher(early, { device })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('no whole checkpoint'),
    });
  });

  it('sees the same draws at its own resolution', async () => {
    const still = {
      scaleMin: 1,
      ratioMin: 1,
      ratioMax: 1,
      flipProbability: 0,
      jitterProbability: 0,
      greyProbability: 0,
      blurProbability: 0,
    };
    const same = await firstLoss({ augment: still });
    const smaller = await firstLoss({ augment: still, data: { resolution: 32 } });
    // of the teacher's targets, which do not depend on the student's input
    expect(smaller.entropyTextual).toBeCloseTo(same.entropyTextual, 4);
    expect(smaller.lossTextual).not.toBe(same.lossTextual);
  });

  it('in ONNX gives what the native one gives', async () => {
    const file = visionOnnx('training with a teacher in ONNX');
    if (file === undefined) return;
    const native = await firstLoss({});
    const onnx = await firstLoss({ teacher: file, textEncoder: tinyClip });
    for (const key of ['loss', 'lossTextual', 'entropyTextual', 'agreement', 'categoriesHit'] as const)
      expect(onnx[key]).toBeCloseTo(native[key], 2);
    const accumulated = await firstLoss({
      teacher: file,
      textEncoder: tinyClip,
      train: { batchSize: 4, accumulate: 2 },
    });
    expect(Number.isFinite(accumulated.loss)).toBe(true);
  });

  it('is said to have another name than the text encoder', async () => {
    const bank = join(folder, 'of-another.safetensors');
    await TextualSemanticsBank.fromEmbeddings(
      shapeNames,
      Float32Array.from({ length: shapeNames.length * 256 }, (_, i) => Math.cos(i)),
      { encoderId: 'org/other-clip' },
    ).save(bank);
    const { events } = await train({
      ...smallConfig(data, output(), {
        bank,
        data: { resolution: 32 },
        train: { epochs: 1, warmupEpochs: 0, maxSteps: 1 },
      }),
      names: undefined,
    });
    expect(ofType(events, 'start')[0]!.remarks).toEqual([
      expect.stringMatching(/^names are embedded by org\/other-clip and images by tiny-clip: /u),
    ]);
  });

  it('may be a file of embeddings', async () => {
    const { teacher, bank, ids } = await madeUpTeacher(join(folder, 'file'));
    const config = {
      ...smallConfig(data, output(), { teacher, bank, train: { epochs: 1, warmupEpochs: 0, accumulate: 2 } }),
      names: undefined,
    };
    expect(ofType((await train(config)).events, 'step')).toHaveLength(2);
    await PrecomputedTeacher.save(
      teacher,
      ids.slice(1),
      Float32Array.from({ length: (ids.length - 1) * 16 }, (_, i) => Math.cos(i)),
      { resolution: 32 },
    );
    expect(await failure({ ...config, output: output() })).toMatchObject({
      code: 'BAD_DATASET',
      message: expect.stringMatching(/^1 of 32 images have no embedding .*circle\/0\.png/u) as unknown,
    });
  });
});
