/** What a run that goes on needs of what it was begun with: weights, text bank, teacher, images. */
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { lgdistill } from '../cli/program.js';
import { ofType, sameBits, shapeNames, tinyClip, train } from '../fixtures/tiny.js';
import { expectSame, ResumedRuns } from './resume-fixture.js';

const made = new ResumedRuns();
const { folder, output, quick, unbrokenRun } = made;

/** Changes one weight of a model. */
async function changeWeight(file: string): Promise<void> {
  const { tensors, metadata } = await readSafetensors(file);
  (tensors.get('visual.conv1.weight')!.data as Float32Array)[0]! += 1e-3;
  await writeSafetensors(file, [...tensors], metadata);
}

describe('the file of weights that a run was started from', () => {
  it('is not needed by one that goes on: where it is gone, or another, a line says so', async () => {
    const [donor, whole, broken, file] = [output(), output(), output(), join(folder, 'start.safetensors')];
    await train(quick(donor, { train: { maxSteps: 1 } }));
    await cp(join(donor, 'checkpoints', 'last', 'model.safetensors'), file);
    await train(quick(whole, { student: { weights: file } }));
    await train(quick(broken, { student: { weights: file }, train: { maxSteps: 5 } }));
    const goOn = async (step: number) =>
      ofType(
        (await train(await resumeConfig(broken, { 'train.maxSteps': step }), { resume: 'last' })).events,
        'start',
      )[0]!;
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
    await expect(train(await resumeConfig(broken), { resume: 'last' })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
  });
});

describe('the text bank', () => {
  it.each([
    ['the configuration names none', undefined],
    ['its file is gone', 'gone.safetensors'],
  ])('is that of the checkpoint where %s', async (_, bank) => {
    const [whole, broken] = [await unbrokenRun(), output()];
    await train(quick(broken, { train: { maxSteps: 12 } }));
    await train(
      { ...(await resumeConfig(broken, { 'train.maxSteps': 16 })), bank: bank && join(folder, bank) },
      { resume: 'last' },
    );
    await expectSame(broken, whole);
  });

  it('is that of the checkpoint where the files of its names and templates are gone, and a line says so', async () => {
    const [whole, broken, names, templates] = [
      output(),
      output(),
      join(folder, 'names.txt'),
      join(folder, 'templates.txt'),
    ];
    const config = (path: string, more: ConfigInput = {}): ConfigInput => ({
      ...quick(path, {
        teacher: tinyClip,
        bank: undefined,
        templates,
        data: { resolution: 32 },
        evaluate: { data: made.labelled, names },
        ...more,
      }),
      names,
    });
    const goOn = async (overrides: Record<string, unknown> = {}) =>
      train(await resumeConfig(broken, { 'train.maxSteps': 16, ...overrides }), { resume: 'last' });
    await writeFile(names, shapeNames.join('\n'));
    await writeFile(templates, 'a photo of a {}.');
    await train(config(whole));
    await train(config(broken, { train: { maxSteps: 12 } }));
    const others = [
      [names, [...shapeNames].reverse().join('\n'), 'the names come in another order'],
      [
        names,
        [...shapeNames.slice(1), 'ring', 'star'].join('\n'),
        'the names lack "circle", and "ring", "star" are new among the names',
      ],
      [templates, 'a drawing of a {}.', 'the templates are "a drawing of a {}." and were "a photo of a {}."'],
    ] as const;
    for (const [file, text, what] of others) {
      // which are no missing ones
      const before = await readFile(file);
      await writeFile(file, text);
      await expect(goOn({ 'evaluate.names': shapeNames })).rejects.toMatchObject({
        code: 'BAD_CHECKPOINT',
        option: 'bank',
        message: expect.stringContaining(`another text bank: ${what}.`) as unknown,
      });
      await writeFile(file, before);
    }
    await writeFile(names, '');
    await expect(goOn()).rejects.toMatchObject({ code: 'BAD_NAMES' });
    await rm(names);
    await rm(templates);
    const remarks = [`names ${names}`, `templates ${templates}`].map(
      (what) => `${what} is not there any more: the run goes on with what its checkpoint keeps of it`,
    );
    expect(ofType((await goOn()).events, 'start')).toMatchObject([{ step: 12, remarks }]);
    const log = await readFile(join(broken, 'log.txt'), 'utf8');
    for (const remark of remarks) expect(log.split(remark)).toHaveLength(2);
    await expectSame(broken, whole);
    await rm(join(broken, 'checkpoints'), { recursive: true });
    await expect(goOn()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'names',
      found: names,
      mend: expect.stringContaining('now: --names NEW') as unknown,
    });
  });
});

describe('the teacher', () => {
  const resumeWith = async (run: string, teacher: string, step: number) =>
    train({ ...(await resumeConfig(run, { 'train.maxSteps': step })), teacher }, { resume: 'last' });
  const refusal = async (run: string, teacher: string) =>
    resumeWith(run, teacher, 3).then(
      () => undefined,
      (error: unknown) => error as Error,
    );
  /** Writes the embeddings that the small teacher has, changed, under a name. */
  async function embeddingsLike(
    name: string,
    change: (row: number, value: number) => number,
    order: (ids: string[]) => string[] = (ids) => ids,
  ): Promise<string> {
    const known = await PrecomputedTeacher.load(made.small.teacher);
    const ids = order(shapeNames.flatMap((shape) => Array.from({ length: 8 }, (_, i) => `${shape}/${i}.png`)));
    const file = join(folder, 'elsewhere', name);
    await mkdir(join(folder, 'elsewhere'), { recursive: true });
    await PrecomputedTeacher.save(
      file,
      ids,
      known.lookup(ids).map((value, i) => change(Math.floor(i / 16), value)),
      { resolution: 32 },
    );
    return file;
  }

  it('is the same at another place and by another name, its embeddings in another order', async () => {
    const [whole, broken] = [output(), output()];
    await train(quick(whole, { train: { maxSteps: 6 } }));
    await train(quick(broken, { train: { maxSteps: 2 } }));
    const moved = await embeddingsLike(
      'renamed.safetensors',
      (_, value) => value,
      (ids) => ids.reverse(),
    );
    const { weights } = await resumeWith(broken, moved, 6);
    expect(await readFile(join(broken, 'log.txt'), 'utf8')).toContain(
      `teacher is ${moved} from here on and was ${made.small.teacher}: the same one`,
    );
    const { tensors } = await readSafetensors(join(whole, 'checkpoints', 'last', 'model.safetensors'));
    for (const [name, values] of Object.entries(weights))
      expect(sameBits(values, tensors.get(name)!.data as Float32Array), name).toBe(true);
  });

  it('is refused with other embeddings under the same name', async () => {
    const run = output();
    await train(quick(run, { train: { maxSteps: 2 } }));
    const other = await embeddingsLike(basename(made.small.teacher), (row, value) =>
      row === 9 ? 1.01 * value : value,
    );
    expect(await refusal(run, other)).toMatchObject({
      code: 'BAD_CHECKPOINT',
      option: 'teacher',
      message: expect.stringContaining('another teacher: the embedding of square/1.png is not what it was') as unknown,
    });
    expect(await refusal(run, other)).toMatchObject({
      mend: expect.stringContaining('(--teacher), or begin a new run from its student: --weights') as unknown,
    });
  });

  it('is refused with other weights under the same name', async () => {
    const [run, clip] = [output(), join(folder, 'clips', basename(tinyClip))];
    const config = (teacher: string) =>
      quick(run, { teacher, bank: undefined, data: { resolution: 32 }, train: { maxSteps: 2 } });
    const first = await train({ ...config(tinyClip), names: shapeNames });
    expect(first.events.at(-1)).toMatchObject({ type: 'done' });
    await cp(tinyClip, clip, { recursive: true });
    const same = await resumeWith(run, clip, 3);
    expect(same.events.at(-1)).toMatchObject({ type: 'done', step: 3 });
    await changeWeight(join(clip, 'visual.safetensors'));
    const error = await resumeWith(run, clip, 4).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    expect(error).toMatchObject({
      code: 'BAD_CHECKPOINT',
      option: 'teacher',
      message: expect.stringMatching(
        /Found: "tiny-clip \(native\), .*fingerprint [0-9a-f]{12}"\. Allowed: tiny-clip \(native\), .*fingerprint [0-9a-f]{12}\./u,
      ) as unknown,
    });
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
    ['another optimiser', () => quick(run, { train: { optimizer: 'adamw' } }), 'train.optimizer'],
    ['another input size', () => quick(run, { data: { resolution: 48 } }), 'data.resolution'],
    [
      'fewer images',
      async () => {
        const fewer = join(folder, 'fewer');
        await cp(made.small.data, fewer, { recursive: true });
        await rm(join(fewer, 'circle', '3.png'));
        return quick(run, { data: { train: fewer } });
      },
      'data.train',
    ],
    [
      'another image in the place of one',
      async () => {
        const other = join(folder, 'other');
        await cp(made.small.data, other, { recursive: true });
        await rm(join(other, 'circle', '3.png'));
        await cp(join(made.small.data, 'circle', '3.png'), join(other, 'circle', '9.png'));
        return quick(run, { data: { train: other } });
      },
      'data.train',
    ],
  ])('is refused: %s', async (_, config, option) => {
    const before = (await readdir(join(run, 'checkpoints'))).sort();
    const error = await train(await config(), { resume: 'last' }).then(
      () => undefined,
      (caught: { code: string; option?: string }) => caught,
    );
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
