import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { RunConfig } from '../../lib/config/batch.js';
import { parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { takeLock } from '../../lib/files/process-lock.js';
import { compareRuns } from '../../lib/report/compare.js';
import { writeReport } from '../../lib/report/report.js';
import { openGroupFolder } from '../../lib/runs/group-folder.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ofType, smallConfig, train, type Outcome } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const names = ['mobilenet_v3_small', 'mobilenet_v2'];
const together = join(folder, 'together');
let data: string;
let labelled: string;
let models: { teacher: string; bank: string };
let outcome: Outcome;

/** Eight steps: two epochs of four. */
const config = (output: string, name: string, more: ConfigInput = {}): ConfigInput => ({
  ...smallConfig(data, output, {
    method: 'hybrid',
    loss: { queueSize: 24 },
    ...models,
    evaluate: { data: labelled },
    ...more,
    student: { name, widthMultiplier: 0.25, ...more.student },
  }),
  names: undefined,
});
const last = (run: string, file: string) => readFile(join(run, 'checkpoints', 'last', file));

async function expectAsAlone(run: string): Promise<void> {
  for (const name of names) {
    for (const file of ['model.safetensors', 'state.safetensors'])
      expect((await last(join(run, name), file)).equals(await last(join(folder, name), file)), `${name} ${file}`).toBe(
        true,
      );
  }
}

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  labelled = await drawShapes(join(folder, 'labelled'), { count: 1, size: 32, seed: 2 });
  models = await madeUpTeacher(join(folder, 'made-up')).then(({ teacher, bank }) => ({ teacher, bank }));
  for (const name of names) await train(config(join(folder, name), name));
  outcome = await train(config(together, names.join(', ')));
});

describe('students that are trained side by side', () => {
  it('end with the bits that each has alone, momentum, banks and queue included', async () => {
    await expectAsAlone(together);
  });

  it('tell who each event is about, and come to each step together', () => {
    expect(ofType(outcome.events, 'step').map(({ studentName, step }) => `${studentName} ${step}`)).toEqual(
      Array.from({ length: 8 }, (_, i) => names.map((name) => `${name} ${i + 1}`)).flat(),
    );
    for (const type of ['start', 'done'] as const)
      expect(ofType(outcome.events, type).map(({ studentName }) => studentName)).toEqual(names);
    expect(ofType(outcome.events, 'evaluation').filter(({ studentName }) => studentName === names[1])).toHaveLength(2);
    const rates = ofType(outcome.events, 'step')
      .slice(-2)
      .map(({ imagesPerSecond, dataWait }) => ({ imagesPerSecond, dataWait }));
    expect(rates[0]).toEqual(rates[1]);
  });

  it('have a run folder each, which reports, comparisons and exports take; the folder of all stands for all', async () => {
    expect((await readdir(together)).sort()).toEqual(['config.json', ...names].sort());
    const { runs } = await compareRuns([together]);
    expect(runs.map(({ name, student }) => `${name}: ${student}`)).toEqual(
      names.map((name) => `${name}: ${name} x 0.25`),
    );
    const report = await writeReport({ runs: [together], models: false });
    expect([report.file, report.runs.length]).toEqual([join(together, 'report.html'), 2]);
    expect((await readStudent(join(together, names[1]!))).info.architecture).toBe(names[1]);
    await expect(readStudent(together)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining(join(together, names[0]!)) as unknown,
    });
  });

  it('continue after a stop, also where their last checkpoints are of different steps', async () => {
    const broken = join(folder, 'broken');
    await train(
      config(broken, names.join(','), { train: { maxSteps: 4 }, checkpoint: { everyEpochs: 0, everySteps: 2 } }),
    );
    // As if killed after the first student's checkpoint of step 4.
    const checkpoints = join(broken, names[1]!, 'checkpoints');
    await rm(join(checkpoints, 'step-00000004'), { recursive: true });
    await rm(join(checkpoints, 'last'));
    await symlink('step-00000002', join(checkpoints, 'last'));
    const { events } = await train(
      await resumeConfig(broken, { 'train.maxSteps': 8, 'checkpoint.everyEpochs': 1, 'checkpoint.everySteps': 0 }),
      { resume: 'last' },
    );
    expect(ofType(events, 'start').map(({ step }) => step)).toEqual([4, 2]);
    expect(
      ofType(events, 'step')
        .slice(0, 4)
        .map(({ studentName, step }) => `${studentName} ${step}`),
    ).toEqual([`${names[1]} 3`, `${names[1]} 4`, `${names[0]} 5`, `${names[1]} 5`]);
    await expectAsAlone(broken);
  });

  it('continue where they were killed before any had a folder', async () => {
    const broken = join(folder, 'begun');
    const unlock = await openGroupFolder(parseConfig(config(broken, names.join(','))) as RunConfig, names, undefined);
    await unlock();
    await mkdir(join(broken, names[0]!)); // and the first is about to have one
    await train(await resumeConfig(broken), { resume: 'last' });
    await expectAsAlone(broken);
  });

  it('continue where one has no checkpoint yet, and one alone by its own folder', async () => {
    const broken = join(folder, 'early');
    // the end of an epoch: evaluated there in any case
    await train(config(broken, names.join(','), { train: { maxSteps: 4 } }));
    await rm(join(broken, names[0]!, 'checkpoints'), { recursive: true });
    const alone = join(folder, 'taken-out');
    await cp(join(broken, names[1]!), alone, { recursive: true });
    await train(await resumeConfig(broken, { 'train.maxSteps': 8 }), { resume: 'last' });
    await expectAsAlone(broken);
    await train(await resumeConfig(alone, { 'train.maxSteps': 8 }), { resume: 'last' });
    expect(
      (await last(alone, 'state.safetensors')).equals(await last(join(folder, names[1]!), 'state.safetensors')),
    ).toBe(true);
  });

  it('are overwritten when that is asked for, by several or by one, and nothing else in the folder is', async () => {
    const run = join(folder, 'overwritten');
    await train(config(run, names.join(','), { train: { maxSteps: 1 } }));
    await writeFile(join(run, names[1]!, 'notes.txt'), 'mine');
    await expect(train(config(run, names.join(',')))).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
    await train(config(run, names[0]!, { overwrite: true, train: { maxSteps: 1 } }));
    expect(await readdir(run)).not.toContain(names[0]);
    expect(await readdir(join(run, names[1]!))).toEqual(['notes.txt']);
    await mkdir(join(run, names[0]!), { recursive: true });
    await rm(join(run, names[1]!), { recursive: true });
    await train(config(run, names.join(','), { overwrite: true, train: { maxSteps: 1 } }));
    expect((await readdir(run)).sort()).toEqual(['config.json', ...names].sort());
  });
});

describe('what cannot be trained side by side is refused', () => {
  it.each([
    ['the folder of all', '.', names.join(',')],
    ['one of theirs', names[1]!, names.join(',')],
    ['one of theirs, by one student', names[1]!, names[0]!],
  ])('to overwrite while another process writes to %s', async (_, held, by) => {
    const run = await mkdtemp(join(folder, 'live-'));
    await train(config(run, names.join(','), { train: { maxSteps: 1 } }));
    expect(await takeLock(join(run, held, 'run.lock'))).toHaveProperty('release');
    await expect(train(config(run, by, { overwrite: true }))).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
      message: expect.stringContaining('is writing to this run folder') as unknown,
    });
    for (const name of names) expect(await readdir(join(run, name, 'checkpoints'))).toContain('last');
  });

  it.each<[string, () => ConfigInput, object]>([
    [
      'a student twice',
      () => config(join(folder, 'no'), 'mobilenet_v2,mobilenet_v2'),
      { code: 'BAD_CONFIG', option: 'student.name' },
    ],
    ['no student', () => config(join(folder, 'no'), ', '), { code: 'BAD_CONFIG', option: 'student.name' }],
    [
      'one file of weights for two',
      () => config(join(folder, 'no'), names.join(','), { student: { weights: 'x.safetensors' } }),
      { code: 'BAD_CONFIG', option: 'student.weights' },
    ],
    ['an unknown one among them', () => config(join(folder, 'no'), 'mobilenet_v2,resnet81'), { code: 'BAD_OPTION' }],
  ])('%s', async (_, make, error) => {
    await expect(train(make())).rejects.toMatchObject(error);
  });

  it('a run of others, and a checkpoint that belongs to one', async () => {
    await expect(
      train(await resumeConfig(together, { 'student.name': 'mobilenet_v2,resnet18', 'student.widthMultiplier': 1 }), {
        resume: 'last',
      }),
    ).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', option: 'student.name' });
    await expect(
      train(await resumeConfig(together), { resume: join(together, names[0]!, 'checkpoints', 'last') }),
    ).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'from' });
  });
});
