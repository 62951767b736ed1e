import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { lgdistill } from '../cli/program.js';
import { drawShapes, madeUpTeacher, ofType, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const run = join(folder, 'run');
beforeAll(async () => {
  const data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  await train({ ...smallConfig(data, run, { teacher, bank, train: { epochs: 4, maxSteps: 1 } }), names: undefined });
});

/** Goes on for a step, by the API. Returns what the start says, and what log.txt says of it. */
async function goOn(
  step: number,
  options: Record<string, unknown>,
): Promise<{ remarks: readonly string[] | undefined; logged: string[] }> {
  const { events } = await train(await resumeConfig(run, { ...options, 'train.maxSteps': step }), { resume: 'last' });
  const log = await readFile(join(run, 'log.txt'), 'utf8');
  const lines = log
    .slice(log.lastIndexOf('start at step'))
    .split('\n')
    .map((line) => line.slice(line.indexOf(' ') + 1));
  return {
    remarks: ofType(events, 'start')[0]!.remarks,
    logged: lines.filter((line) => line.includes('from here on')),
  };
}

describe('a run that goes on with other options', () => {
  it('says which, what they were, and that config.json tells it no more', async () => {
    const changed = {
      'train.learningRate': 0.02,
      'train.epochs': 5,
      'loss.studentTemperature': 0.9,
      'augment.hue': 0,
      'data.margin': 1.5,
      'student.dropping': false,
    };
    const remarks = [
      'data.margin is 1.5 from here on and was 1',
      'student.dropping is false from here on and was true',
      'loss.studentTemperature is 0.9 from here on and was 0.2',
      'train.epochs is 5 from here on and was 4',
      'train.learningRate is 0.02 from here on and was 0.03',
      'augment.hue is 0 from here on and was 0.1',
    ].map((what) => `${what}: config.json has the new value alone`);
    expect(await goOn(2, changed)).toEqual({ remarks, logged: remarks });
    expect(await goOn(3, {})).toEqual({ remarks: undefined, logged: [] });
    expect((await goOn(4, { 'augment.hue': 0.1 })).remarks).toEqual([
      'augment.hue is 0.1 from here on and was 0: config.json has the new value alone',
    ]);
  });

  it('says nothing of those that lgdistill resume takes, nor of those that leave the weights alone', async () => {
    const options = {
      threads: 1,
      'data.cacheMemory': 1,
      'data.readAhead': 2,
      'data.cache': 'stream',
      'train.outlierFactor': 0,
      'checkpoint.keep': 3,
      'log.everySteps': 2,
      'evaluate.everySteps': 3,
      'evaluate.neighbours': 5,
      overwrite: true,
    };
    expect(await goOn(5, options)).toEqual({ remarks: undefined, logged: [] });
  });
});

it('lgdistill resume takes how often to evaluate, in epochs and in steps', async () => {
  expect(
    await lgdistill([
      'resume',
      run,
      '--max-steps',
      '6',
      '--evaluate.every-steps',
      '2',
      '--evaluate.every-epochs',
      '0',
      '--no-report',
    ]),
  ).toMatchObject({ code: 0 });
  expect(JSON.parse(await readFile(join(run, 'config.json'), 'utf8'))).toMatchObject({
    evaluate: { everySteps: 2, everyEpochs: 0 },
  });
});
