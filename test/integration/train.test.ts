import { readFile, readdir, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { RunConfig } from '../../lib/config/batch.js';
import { fewNames, parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { openDevice } from '../../lib/device.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { evaluateStudent } from '../../lib/evaluate/student.js';
import { exportStudent } from '../../lib/export/student.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { loadTeacher } from '../../lib/models/index.js';
import { readRunConfig } from '../../lib/runs/run-folder.js';
import { readRunLog } from '../../lib/runs/run-log.js';
import { findStudentFile, loadStudent, readStudent } from '../../lib/runs/student-file.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { allRuns } from '../fixtures/runs.js';
import { drawShapes, madeUpTeacher, ofType, sameBits, shapeNames, smallConfig, train } from '../fixtures/tiny.js';
import { failure, ShapeRuns } from './train-fixture.js';

const { folder, data, labelled, output } = new ShapeRuns();

describe('a run', () => {
  it('has whole steps where accumulated batches do not fill the last, and is evaluated at its end', async () => {
    const path = output();
    const { events } = await train(
      smallConfig(data, path, { train: { accumulate: 3 }, evaluate: { data: labelled, everyEpochs: 0 } }),
    );
    expect(events.map(({ type }) => type)).toEqual(['start', 'step', 'step', 'evaluation', 'checkpoint', 'done']);
    expect(events[0]).toMatchObject({ totalSteps: 2, lastStep: 2 });
    expect(events[4]).toMatchObject({ epoch: 1.5 });
    expect(readRunLog(await readFile(join(path, 'log.txt'), 'utf8'))).toMatchObject({
      sessions: { length: 1 },
      images: 32,
    });
  });

  it.each([
    [10_000, Infinity],
    [24, 3],
  ])(
    'without evaluation has its best checkpoint fifty steps after a queue of %i is full, or at the end',
    async (queueSize, fullAfter) => {
      const { teacher, bank } = await madeUpTeacher(join(folder, 'queued'));
      const small = await drawShapes(join(folder, 'queued'), { count: 8, size: 32 });
      const { events } = await train({
        ...smallConfig(small, output(), { method: 'seed', loss: { queueSize }, teacher, bank, train: { epochs: 16 } }),
        names: undefined,
      });
      const losses = ofType(events, 'step').map(({ loss }) => loss);
      const smoothed = (step: number) => {
        // the fourth loss is the first against a full queue
        const since = losses.slice(step > fullAfter ? fullAfter : 0, step);
        const weights = since.map((_, i) => 0.98 ** (since.length - 1 - i));
        return since.reduce((sum, loss, i) => sum + loss * weights[i]!, 0) / weights.reduce((a, b) => a + b);
      };
      let best = { step: 0, value: Infinity };
      const expected: number[] = [];
      for (let step = 4; step <= 64; step += 4) {
        if (best.step >= fullAfter + 50 && smoothed(step) >= best.value) continue;
        best = { step, value: smoothed(step) };
        expected.push(step);
      }
      // though the loss rises at first
      expect(expected.slice(0, 13)).toEqual(Array.from({ length: 13 }, (_, i) => 4 * (i + 1)));
      expect(
        ofType(events, 'checkpoint')
          .filter((event) => event.best)
          .map(({ step }) => step),
      ).toEqual(expected);
      const found = ofType(events, 'done')[0]!.best!;
      expect(found).toMatchObject({ metric: 'loss', step: best.step });
      expect(found.value).toBeCloseTo(best.value, 6);
    },
  );

  it('tells of its steps, evaluations and checkpoints, and leaves them in its folder', async () => {
    const path = output();
    const { events } = await train(smallConfig(data, path, { evaluate: { data: labelled } }));
    expect(events.map(({ type }) => type)).toEqual([
      'start',
      ...Array(4).fill('step'),
      'evaluation',
      'checkpoint',
      ...Array(4).fill('step'),
      'evaluation',
      'checkpoint',
      'done',
    ]);
    expect(events[0]).toMatchObject({
      step: 0,
      totalSteps: 8,
      lastStep: 8,
      stepsPerEpoch: 4,
      images: 32,
      broken: 0,
      effectiveBatch: 8,
    });
    const { memory } = ofType(events, 'start')[0]!;
    expect(memory.planned).toBeGreaterThan(0);
    expect(memory.used).toBeGreaterThanOrEqual(memory.planned);
    const inUse = /device memory after the first step: in use (\d+) MiB, at most (\d+) MiB \(planned (\d+) MiB\)/u
      .exec(await readFile(join(path, 'log.txt'), 'utf8'))!
      .slice(1)
      .map(Number);
    expect(inUse[0]).toBeGreaterThanOrEqual(memory.used); // the first step makes the momentum
    expect(inUse[1]).toBeGreaterThanOrEqual(inUse[0]!);
    for (const [i, step] of ofType(events, 'step').entries()) {
      expect(step).toMatchObject({ step: i + 1, epoch: (i + 1) / 4, logged: true });
      expect(step.loss).toBeCloseTo((step.lossVisual + step.lossTextual) / 2, 6);
      expect(step.klTextual).toBeCloseTo(step.lossTextual - step.entropyTextual, 6);
      expect(step.ownMass).toBeGreaterThan(0.9);
      expect(step.agreement).toBeLessThanOrEqual(1);
      expect(step.categoriesHit).toBeGreaterThan(0);
      expect(step.categoriesSeen).toBeGreaterThanOrEqual(step.categoriesHit);
      expect(step.imagesPerSecond).toBeGreaterThan(0);
    }
    const [first, second] = ofType(events, 'evaluation');
    expect(second!.teacher).toEqual(first!.teacher);
    expect(first).toMatchObject({ best: true, student: { images: 12, classes: 4, topK: 4, top5: 1 } });

    expect((await readdir(path)).sort()).toEqual([
      'checkpoints',
      'config.json',
      'images.tsv.gz',
      'log.txt',
      'metrics.jsonl',
      'start.json',
    ]);
    const lines = (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string; step: number });
    expect(lines.map(({ type, step }) => `${type} ${step}`)).toEqual([
      ...[1, 2, 3, 4].map((step) => `step ${step}`),
      'evaluation 4',
      ...[5, 6, 7, 8].map((step) => `step ${step}`),
      'evaluation 8',
    ]);
    const config = parseConfig(JSON.parse(await readFile(join(path, 'config.json'), 'utf8')));
    expect(config).toMatchObject({ seed: 3, data: { resolution: 64, train: data }, output: path });
    const { info } = await readStudent(join(path, 'checkpoints', 'last'));
    expect(info).toMatchObject({
      architecture: 'mobilenet_v2',
      widthMultiplier: 0.35,
      embeddingSize: 256,
      resolution: 64,
      names: shapeNames,
      templates: ['{}'],
      method: 'lgd',
      step: 8,
      epoch: 2,
    });
    // the run folder means its best checkpoint
    expect((await readStudent(path)).info.step).toBe(ofType(events, 'done')[0]!.best!.step);
  });

  it('learns: the student comes to place images as the teacher does', async () => {
    const images = await drawShapes(join(folder, 'telling'), { count: 8, size: 32, telling: true });
    const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
    const config = smallConfig(images, output(), {
      teacher,
      bank,
      train: { epochs: 30, batchSize: 16, learningRate: 0.3, warmupEpochs: 2 },
      log: { everySteps: 25 },
      augment: { scaleMin: 1, ratioMin: 1, ratioMax: 1, jitterProbability: 0, greyProbability: 0, blurProbability: 0 },
    });
    const steps = ofType((await train({ ...config, names: undefined })).events, 'step');
    const mean = (part: typeof steps, key: 'loss' | 'klTextual' | 'agreement') =>
      part.reduce((sum, step) => sum + step[key], 0) / part.length;
    const [first, last] = [steps.slice(0, 5), steps.slice(-5)];
    // At four seeds 0.39 to 0.66 and 0.26 to 0.63 of the first; agreement rises by 0.35 to 0.69.
    expect(mean(last, 'loss')).toBeLessThan(0.75 * mean(first, 'loss'));
    expect(mean(last, 'klTextual')).toBeLessThan(0.75 * mean(first, 'klTextual'));
    expect(mean(last, 'agreement')).toBeGreaterThan(mean(first, 'agreement') + 0.2);
    expect(steps.filter(({ logged }) => logged).map(({ step }) => step)).toEqual([1, 25, 50, 60]);
  });

  it('calls the lowest smoothed loss the best where there is nothing to evaluate on', async () => {
    const path = output();
    const { events } = await train(
      smallConfig(data, path, { train: { epochs: 4, learningRate: 0.5 }, checkpoint: { everySteps: 2, keep: 20 } }),
    );
    const done = ofType(events, 'done')[0]!;
    const best = ofType(events, 'checkpoint')
      .filter((event) => event.best)
      .at(-1)!;
    expect(done.best).toMatchObject({ metric: 'loss', step: best.step });
    const manifest = JSON.parse(await readFile(join(path, 'checkpoints', 'best', 'manifest.json'), 'utf8')) as {
      step: number;
      best: unknown;
    };
    expect(manifest).toMatchObject({ step: best.step, best: done.best });
    expect(Math.max(...ofType(events, 'checkpoint').map(({ step }) => step))).toBe(16);
  });

  it.each([
    ['text', (step: { lossTextual: number }) => step.lossTextual],
    ['visual', (step: { lossVisual: number }) => step.lossVisual],
    ['seed', (step: { lossVisual: number }) => step.lossVisual],
    ['hybrid', (step: { lossVisual: number }) => step.lossVisual],
    ['feature', (step: { loss: number }) => step.loss],
  ] as const)('trains by method %s', async (method, part) => {
    const path = output();
    const { events } = await train(
      smallConfig(data, path, { method, loss: { queueSize: 20 }, train: { epochs: 1, warmupEpochs: 0 } }),
    );
    const steps = ofType(events, 'step');
    expect(steps).toHaveLength(4);
    for (const step of steps) {
      expect(step.loss).toBeCloseTo(part(step as never), 6);
      if (method === 'feature') expect([step.lossVisual, step.lossTextual, step.loss < 2]).toEqual([0, 0, true]);
      if (method !== 'text') expect(step.lossVisual).toBeGreaterThanOrEqual(0);
    }
    const { tensors, metadata } = await readSafetensors(join(path, 'checkpoints', 'last', 'state.safetensors'));
    const hasQueue = method === 'seed' || method === 'hybrid';
    expect(tensors.get('queue')!.shape[0]).toBe(hasQueue ? 20 : 0);
    expect(metadata).toMatchObject(hasQueue ? { queueFilled: '20', queuePosition: '12' } : { queueFilled: '0' });
  });

  it.each(['seed', 'feature'] as const)('needs no names for method %s', async (method) => {
    const path = output();
    const config = smallConfig(data, path, { method, loss: { queueSize: 16 }, train: { maxSteps: 2 } });
    const { events } = await train({ ...config, names: undefined });
    expect(ofType(events, 'step')).toHaveLength(2);
    expect((await readStudent(path)).info).toMatchObject({ names: [], bankHash: '', method });
    expect(await readdir(join(path, 'checkpoints', 'last'))).not.toContain('bank.safetensors');
  });

  it('chooses its method by the number of names, says which, and has the bits of that one', async () => {
    const bits = async (method: ConfigInput['method'], names: string[]) => {
      const path = output();
      const { events } = await train(
        smallConfig(data, path, { method, names, templates: 'none', train: { maxSteps: 2 } }),
      );
      return {
        start: ofType(events, 'start')[0]!,
        losses: ofType(events, 'step').map(({ loss }) => loss),
        log: await readFile(join(path, 'log.txt'), 'utf8'),
        config: (await readRunConfig(path)) as RunConfig,
        info: (await readStudent(join(path, 'checkpoints', 'last'))).info,
      };
    };
    for (const [names, method] of [
      [shapeNames, 'seed'],
      [[...shapeNames, ...Array.from({ length: fewNames }, (_, i) => `thing ${i}`)], 'lgd'],
    ] as const) {
      await using run = await prepareRun(smallConfig(data, output(), { method: 'auto', names, templates: 'none' }));
      expect(run.config).toMatchObject({ method, train: { batchSize: expect.any(Number) as number } });
      const [chosen, given] = [await bits('auto', [...names]), await bits(method, [...names])];
      expect(chosen.losses).toEqual(given.losses);
      expect([chosen.info.method, chosen.config.method]).toEqual([method, method]);
      expect(chosen.start).toMatchObject({
        method,
        choice: expect.stringContaining(`method ${method}, by auto for ${names.length} names`),
      });
      expect(given.start).toMatchObject({ method });
      expect(given.start).not.toHaveProperty('choice');
      expect(chosen.log).toContain(`method ${method}, by auto for ${names.length} names`);
      expect(given.log).not.toContain('by auto');
    }
  });

  it('starts from weights: a student of its own, or a backbone from elsewhere', async () => {
    const first = output();
    await train(smallConfig(data, first, { train: { maxSteps: 2 } }));
    const { file, weights } = await readStudent(first);
    const started = await prepareRun(smallConfig(data, output(), { student: { weights: file } }));
    for (const [name, { data: values }] of Object.entries(weights))
      expect(sameBits(started.student.weights[name]!.data, values), name).toBe(true);
    await started.dispose();

    const backbone = join(folder, 'backbone.safetensors');
    const tensors = Object.entries(weights).filter(([name]) => !name.startsWith('head.'));
    await writeSafetensors(
      backbone,
      [
        ...tensors,
        ['classifier.1.weight', { shape: [1], data: new Float32Array(1) }],
        ['features.0.1.num_batches_tracked', { shape: [], data: BigInt64Array.of(3n) }],
      ],
      {},
    );
    const fromBackbone = await prepareRun(smallConfig(data, output(), { student: { weights: backbone } }));
    const kept = (name: string) => sameBits(fromBackbone.student.weights[name]!.data, weights[name]!.data);
    expect(kept('features.0.0.weight')).toBe(true);
    expect(kept('head.0.weight')).toBe(false); // its seeded start, not the trained head
    await fromBackbone.dispose();
  });

  it('lets nobody use the weights of a checkpoint that have changed since', async () => {
    const path = output();
    await train(smallConfig(data, path, { train: { maxSteps: 1 } }));
    const file = await realpath(await findStudentFile(path));
    const bytes = await readFile(file);
    bytes[bytes.length - 2]! ^= 1; // a weight's exponent stays what it is
    await writeFile(file, bytes);
    using device = await openDevice('cpu');
    const uses = {
      evaluate: () => evaluateStudent({ student: path, config: { evaluate: { data } } }),
      protocols: () =>
        evaluateProtocol({ student: path, protocol: 'knn', config: { data: { train: data }, evaluate: { data } } }),
      export: () => exportStudent({ from: path, to: join(folder, 'changed.safetensors') }),
      start: () => prepareRun(smallConfig(data, output(), { student: { weights: file } })),
      load: async () => loadStudent(path, { device }),
      teacher: () => loadTeacher(file, { device }),
    };
    for (const [use, call] of Object.entries(uses))
      await expect(call(), use).rejects.toMatchObject({
        code: 'BAD_CHECKPOINT',
        message: expect.stringContaining(file) as unknown,
      });
    expect((await allRuns([path]))[0]).toMatchObject({
      student: undefined,
      studentProblem: expect.stringContaining(file) as unknown,
    });
  });

  it('skips broken images and lists them', async () => {
    const mixed = await drawShapes(join(folder, 'mixed'), { count: 6 });
    await writeFile(join(mixed, 'circle', 'bad.jpg'), 'no image');
    const path = output();
    const { events } = await train(smallConfig(mixed, path, { train: { maxSteps: 1 } }));
    expect(events[0]).toMatchObject({ images: 24, broken: 1 });
    expect(await readFile(join(path, 'broken-images.txt'), 'utf8')).toMatch(/^circle\/bad\.jpg\t/u);
  });

  it('keeps the list of those that it found as their turn came when it goes on', async () => {
    const mixed = await drawShapes(join(folder, 'streamed'), { count: 6 });
    await writeFile(join(mixed, 'circle', 'bad\n1.jpg'), 'no image');
    const path = output();
    const config = smallConfig(mixed, path, { data: { cache: 'stream' }, train: { epochs: 1, warmupEpochs: 0 } });
    await train(config);
    const listed = await readFile(join(path, 'broken-images.txt'), 'utf8');
    expect(listed).toMatch(/^"circle\/bad\\n1\.jpg"\t.+\n$/u);
    const { events } = await train(await resumeConfig(path), { resume: 'last' });
    expect(events[0]).toMatchObject({ type: 'start', broken: 1 });
    expect(await readFile(join(path, 'broken-images.txt'), 'utf8')).toBe(listed);
  });
});

describe('a fault', () => {
  it('stops the run by the number of its step, with what it takes to replay it', async () => {
    const path = output();
    const error = await failure(
      smallConfig(data, path, {
        train: { epochs: 5, warmupEpochs: 0, learningRate: 1e9 },
        checkpoint: { everySteps: 1 },
      }),
    );
    expect(error.code).toMatch(/^(?:NON_FINITE|ZERO_EMBEDDING)$/u);
    const step = Number(/step (\d+)/u.exec(error.message)?.[1]);
    expect(step).toBeGreaterThan(1);
    const replay = JSON.parse(await readFile(join(path, 'replay', 'replay.json'), 'utf8')) as Record<
      string,
      unknown
    > & { batches: { images: string[]; drawIds: number[] }[] };
    expect(replay).toMatchObject({
      step,
      checkpoint: `checkpoints/step-${String(step - 1).padStart(8, '0')}`,
      learningRate: expect.any(Number) as unknown,
      config: { seed: 3 },
    });
    expect(replay.batches[0]!.images).toHaveLength(8);
    expect(replay.batches[0]!.drawIds).toHaveLength(8);
    expect(
      (await readSafetensors(join(path, 'replay', 'banks.safetensors'))).tensors.get('visual_bank')!.shape,
    ).toEqual([4, 256]);
    expect(await readFile(join(path, 'log.txt'), 'utf8')).toContain(`step ${step} went wrong`);
    expect(await readdir(path)).not.toContain('run.lock');
  });

  it('of the weights alone is found before they are kept', async () => {
    const path = output();
    const change = { train: { epochs: 5, warmupEpochs: 0, learningRate: 1e9 }, checkpoint: { everySteps: 1 } };
    const error = await failure(smallConfig(data, path, change));
    expect(error).toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(/^step \d+ went wrong: the weights after it are not finite/u) as unknown,
    });
    const { step, checkpoint } = JSON.parse(await readFile(join(path, 'replay', 'replay.json'), 'utf8')) as {
      step: number;
      checkpoint: string;
    };
    const { tensors } = await readSafetensors(join(path, checkpoint, 'model.safetensors'));
    for (const [name, { data: values }] of tensors)
      expect((values as Float32Array).every(Number.isFinite), name).toBe(true);
    const last = await failure(smallConfig(data, output(), { train: { ...change.train, maxSteps: step } }));
    expect(last.message).toMatch(`step ${step} went wrong: the weights after it`); // a run that ends there is not done
  });

  it('that an evaluation comes upon is that of the step before', async () => {
    const path = output();
    const error = await failure(
      smallConfig(data, path, {
        student: { name: 'mobilenetv4_conv_small', widthMultiplier: 1 }, // ReLU6 would make numbers of what is none
        train: { epochs: 5, warmupEpochs: 0, learningRate: 1e9 },
        evaluate: { data: labelled, everySteps: 1 },
      }),
    );
    expect(error).toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(
        /^step \d+ went wrong: the student cannot be evaluated after it: .*embeddings/u,
      ) as unknown,
    });
    expect(await readdir(join(path, 'replay'))).toContain('replay.json');
  });

  it('is an outlier of the loss too', async () => {
    const error = await failure(smallConfig(data, output(), { train: { epochs: 30, outlierFactor: 1e-3 } }));
    expect(error).toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(/^step 21 went wrong: the loss is .* running median/u) as unknown,
    });
  });
});

describe('a stop', () => {
  it('comes with a checkpoint, within the steps under way', async () => {
    const controller = new AbortController();
    const path = output();
    const { events } = await train(smallConfig(data, path, { train: { epochs: 50 } }), {
      signal: controller.signal,
      onEvent: (event) => event.type === 'step' && event.step === 6 && controller.abort(),
    });
    const last = events.at(-1)!;
    expect(last.type).toBe('interrupted');
    expect(ofType(events, 'interrupted')[0]!.step).toBeLessThanOrEqual(7);
    expect((await readStudent(join(path, 'checkpoints', 'last'))).info.step).toBe(
      ofType(events, 'interrupted')[0]!.step,
    );
  });

  it('makes no checkpoint the best whose step asks for none, so that what goes on has the best of a run that was not stopped', async () => {
    const controller = new AbortController();
    const { events } = await train(
      smallConfig(data, output(), {
        train: { epochs: 50, learningRate: 0.5 },
        checkpoint: { everyEpochs: 0, everySteps: 5 },
      }),
      {
        signal: controller.signal,
        onEvent: (event) => event.type === 'step' && event.step === 12 && controller.abort(),
      },
    );
    const checkpoints = ofType(events, 'checkpoint').map(({ step, best }) => ({ isDue: step % 5 === 0, best }));
    expect(checkpoints).toContainEqual({ isDue: true, best: true });
    expect(checkpoints.at(-1)).toEqual({ isDue: false, best: false });
  });

  it('before the first step is an abort', async () => {
    expect((await failure(smallConfig(data, output()), { signal: AbortSignal.abort() })).code).toBe('ABORTED');
  });

  it('of a prepared run before its start is an abort, too', async () => {
    const path = output();
    await using run = await prepareRun(smallConfig(data, path));
    await expect(run.run({ signal: AbortSignal.abort() }).next()).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await readdir(path).catch(() => [])).not.toContain('run.lock');
  });

  it('unlocks the run folder when the caller leaves the loop', async () => {
    const path = output();
    const run = await prepareRun(smallConfig(data, path));
    for await (const event of run.run()) if (event.type === 'step') break;
    expect(await readdir(path)).not.toContain('run.lock');
    await run.dispose();
  });
});
