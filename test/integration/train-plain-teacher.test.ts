import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config/config.js';
import { openDevice } from '../../lib/device.js';
import { benchmark } from '../../lib/evaluate/benchmark.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { devicesUnderTest } from '../devices.js';
import { madeUpTeacher, ofType, sameBits, shapeNames, smallConfig, tinyClip, train } from '../fixtures/tiny.js';
import { failure, ShapeRuns } from './train-fixture.js';

// A DINOv2 of random weights whose files say 21 px.
const dinov2 = fileURLToPath(new URL('../vectors/towers/transformers-dinov2', import.meta.url));
const { folder, data, labelled, output } = new ShapeRuns();

const plainConfig = (more: ConfigInput = {}): ConfigInput => ({
  ...smallConfig(data, output(), { teacher: dinov2, teacherResolution: 35, ...more, data: { resolution: 32 } }),
  names: more.names,
});

const bank = join(folder, 'own-space.safetensors');
beforeAll(() =>
  TextualSemanticsBank.fromEmbeddings(
    shapeNames,
    Float32Array.from({ length: shapeNames.length * 24 }, (_, i) => Math.cos(i)),
    { encoderId: 'transformers-dinov2' },
  ).save(bank),
);

const devices = await devicesUnderTest('training with a plain vision transformer');

describe.each(devices)('on $name', ({ name, emulated }) => {
  it.each(['seed', 'feature'] as const)(
    'teaches by %s without names, and is judged by neighbours',
    async (method) => {
      const config = plainConfig({
        device: name,
        method,
        evaluate: { data: labelled, train: data, also: 'knn', everyEpochs: 0, everySteps: 1 },
        train: { maxSteps: emulated ? 1 : 4 },
      });
      const { events } = await train(config);
      expect(ofType(events, 'start')[0]!.remarks).toBeUndefined();
      expect(ofType(events, 'step').every(({ loss }) => Number.isFinite(loss))).toBe(true);
      expect(ofType(events, 'evaluation').at(-1)).toMatchObject({ student: undefined, knn: { images: 12 } });
    },
    600_000,
  );
});

describe('a run with a plain vision transformer', () => {
  it('teaches by hybrid with a bank of its own space', async () => {
    const { events } = await train(plainConfig({ method: 'hybrid', bank, train: { maxSteps: 2 } }));
    expect(ofType(events, 'start')[0]!.remarks).toBeUndefined();
    expect(ofType(events, 'step')).toHaveLength(2);
  });

  it('goes on with the bits and the resolution it was begun with', async () => {
    const config = (maxSteps: number) => plainConfig({ method: 'seed', train: { maxSteps } });
    const whole = await train(config(4));
    const begun = config(2);
    await train(begun);
    const other = { ...(await resumeConfig(begun.output!, { 'train.maxSteps': 4 })), teacherResolution: 28 };
    await expect(train(other, { resume: 'last' })).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      mend: expect.stringContaining('at 35 px (teacherResolution)') as string,
    });
    const { weights } = await train(await resumeConfig(begun.output!, { 'train.maxSteps': 4 }), { resume: 'last' });
    for (const [name, values] of Object.entries(weights)) expect(sameBits(values, whole.weights[name]!)).toBe(true);
  });

  it('says that names have no place in its space, and what to do without', async () => {
    for (const [config, option] of [
      [{ names: shapeNames }, 'names'],
      [{ method: 'seed', evaluate: { data: labelled, names: shapeNames } }, 'evaluate.names'],
    ] as const)
      expect(
        await failure(plainConfig({ ...config, names: 'names' in config ? [...config.names] : undefined })),
      ).toMatchObject({
        code: 'BAD_CONFIG',
        option,
        mend: expect.stringMatching(/methods seed and feature need none.*--also knn.*--embeddings/u) as string,
      });
    const convNext = fileURLToPath(new URL('../vectors/towers/transformers-dinov3-convnext', import.meta.url));
    expect(await failure(plainConfig({ teacher: convNext, names: [...shapeNames] }))).toMatchObject({
      code: 'BAD_CONFIG',
      option: 'names',
      message: expect.stringContaining('trained without texts') as string,
    });
    const evaluate = { data: labelled, names: [...shapeNames, 'zebra'] };
    expect(await failure(plainConfig({ method: 'hybrid', bank, evaluate }))).toMatchObject({
      code: 'BAD_CONFIG',
      option: 'evaluate.names',
      message: expect.stringContaining('the bank lacks "zebra", and there is no text tower') as string,
      mend: 'Leave them out, or give a bank with these names',
    });
  });
});

describe('teacherResolution', () => {
  const wrong = { code: 'BAD_OPTION', option: 'teacherResolution' };

  it('is refused of teachers that work at one, or at none', async () => {
    const { teacher } = await madeUpTeacher(join(folder, 'table'));
    const failureOf = (source: string) => failure(plainConfig({ teacher: source, method: 'seed' }));
    const ofClip = await failureOf(tinyClip);
    expect(ofClip).toMatchObject({ ...wrong, found: 35, allowed: '64' });
    expect(ofClip.message).toMatch(/^teacherResolution: .*one resolution\. Found: 35\. Allowed: 64\.$/u);
    expect(await failureOf(teacher)).toMatchObject({ ...wrong, mend: 'Leave it out' });
  });

  it('is what is refused where it is no size for a student, which takes it over', async () => {
    const sizes = (teacherResolution?: number) => {
      const config = plainConfig({ teacherResolution, method: 'seed' });
      return { ...config, data: { ...config.data, resolution: undefined } };
    };
    const mend = "Give data.resolution, the side of the student's input in pixels";
    expect(await failure(sizes(28))).toMatchObject({ ...wrong, found: 28, mend });
    expect(await failure(sizes())).toMatchObject({ code: 'BAD_OPTION', option: 'teacher', found: 21, mend });
  });

  it('is what benchmark and evaluate take, too', async () => {
    const { output: run, ...config } = plainConfig({ method: 'seed', train: { maxSteps: 1 } });
    await train({ ...config, output: run! });
    using device = await openDevice('cpu');
    const rows = async (teacherResolution: number) => {
      const input = { ...config, teacherResolution, train: { batchSize: 2 } };
      const found = [];
      for await (const row of benchmark(input, { device, categories: 8, dimension: 24, seconds: 0.01 }))
        found.push(row);
      return found.find(({ op }) => op === 'teacher, inference')?.resolution;
    };
    expect(await rows(28)).toBe(28);
    const evaluate = { data: labelled, train: data, output: join(folder, 'judged') };
    for (const protocol of ['knn', 'zeroshot'] as const) {
      const judged = (teacher: string) =>
        evaluateProtocol({ student: run!, protocol, config: { teacher, teacherResolution: 28, bank, evaluate } });
      await expect(judged(tinyClip)).rejects.toMatchObject(wrong);
      const settings = (await judged(dinov2)).results.map(({ setting }) => setting);
      expect(settings.some((setting) => setting.includes('teacher'))).toBe(true);
    }
  });
});
