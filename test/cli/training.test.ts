import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { StudentEvaluation } from '../../lib/evaluate/student.js';
import { readStudent } from '../../lib/runs/student-file.js';
import type { DoneEvent, EvaluationEvent } from '../../lib/train/events.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';
import { lgdistill } from './program.js';
import { common, task } from './training-fixture.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);

beforeAll(async () => {
  await drawShapes(at('train'), { count: 6 });
  await drawShapes(at('held-out'), { count: 3, seed: 2 });
});

describe('from names and images to an exported student', () => {
  let last: EvaluationEvent;

  test('distill trains, says how it goes, and ends with a table', async () => {
    const { code, stdout, stderr, documents } = await lgdistill([
      'distill',
      ...task,
      '--data',
      at('train'),
      '--evaluate',
      at('held-out'),
      '--output',
      at('run'),
      '--json',
    ]);
    expect([code, stderr.match(/^error.*$/mu)]).toEqual([0, null]);
    const events = documents();
    expect(events.map(({ type }) => type).filter((type) => type !== 'step')).toEqual([
      'preflight',
      'start',
      'evaluation',
      'checkpoint',
      'evaluation',
      'checkpoint',
      'done',
    ]);
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(6);
    last = events.findLast(({ type }) => type === 'evaluation') as unknown as EvaluationEvent;
    expect((events.at(-1) as unknown as DoneEvent).step).toBe(6);
    expect(stderr).toContain(`teacher  ${(100 * last.teacher!.top1).toFixed(1)} %`);
    expect(stderr).toMatch(/^method seed, by auto for 4 names; they take no part in its loss/mu);
    expect(stderr).toMatch(/^done: 6 steps in /mu);
    expect(stdout).not.toContain('done: ');
  });

  test('--dry-run says what it would take, and leaves no folder that was not there', async () => {
    const { code, stdout, documents } = await lgdistill([
      'distill',
      ...task,
      '--data',
      at('train'),
      '--output',
      at('tried'),
      '--dry-run',
      '--json',
    ]);
    expect(code).toBe(0);
    expect(documents()).toEqual([
      expect.objectContaining({ type: 'preflight', students: ['mobilenet_v2'], steps: 6, effectiveBatch: 8 }),
    ]);
    expect(stdout).not.toContain('"start"');
    expect(existsSync(at('tried'))).toBe(false);
    mkdirSync(at('tried'));
    const text = await lgdistill(['distill', ...task, '--data', at('train'), '--output', at('tried'), '--dry-run']);
    for (const words of [
      /^mobilenet_v2: \d.* images\/s, 6 steps of 8 images in /mu,
      /^memory: .* planned .* the largest batch that fits is about \d+/mu,
      /^teacher +\d/mu,
      /^bottleneck: (?:teacher|backward|student forward)\. [A-Z]/mu,
    ])
      expect(text.stdout).toMatch(words);
    expect(readdirSync(at('tried'))).toEqual([]);
    expect(
      (await lgdistill(['distill', ...task, '--data', at('nowhere'), '--output', at('refused', 'run')])).stderr,
    ).toContain(`there is no folder ${at('nowhere')}`);
    expect(existsSync(at('refused'))).toBe(false);
  });

  test('without a batch size and a learning rate few images choose them, which is said, kept, and gone on with', async () => {
    const few = task.filter((_, i) => task[i] !== '--batch-size' && task[i - 1] !== '--batch-size');
    const chosen =
      'batches of 16 at a learning rate of 0.3, by auto for 24 images and 2 epochs: the published 256 would make no step';
    const dry = await lgdistill(['distill', ...few, '--data', at('train'), '--output', at('few'), '--dry-run']);
    expect([dry.code, dry.stdout.split('\n')[0]]).toEqual([0, chosen]);
    const { code, stdout } = await lgdistill([
      'distill',
      ...few,
      '--data',
      at('train'),
      '--output',
      at('few'),
      '--no-preflight',
      '--max-steps',
      '1',
      '--no-report',
    ]);
    expect(code).toBe(0);
    expect(stdout.split('\n').slice(0, 4)).toEqual([
      '24 images, 16 a step, steps: 1',
      expect.stringMatching(/^method seed, by auto/u),
      chosen,
      '2 steps are few to train a network: more --epochs give more (docs/tuning.md, Few images)',
    ]);
    expect(JSON.parse(readFileSync(at('few', 'config.json'), 'utf8'))).toMatchObject({
      train: { batchSize: 16, learningRate: 0.3 },
    });
    const resumed = await lgdistill(['resume', at('few'), '--max-steps', '2', '--no-report', '--json']);
    expect([resumed.code, resumed.documents()[0]]).toEqual([
      0,
      expect.objectContaining({ type: 'start', step: 1, effectiveBatch: 16 }),
    ]);
    expect(resumed.stderr).toMatch(/^done: 2 steps, the last 1 of them in \d+ s; /mu);
    expect((await lgdistill(['resume', at('few'), '--no-report'])).stdout).toMatch(/^done: 2 steps; /mu);
    expect(JSON.parse(readFileSync(at('few', 'config.json'), 'utf8'))).toMatchObject({
      train: { batchSize: 16, learningRate: 0.3 },
    });
  });

  test('students with commas get a folder each', async () => {
    const { code, documents, stderr } = await lgdistill([
      'distill',
      ...task,
      '--max-steps',
      '1',
      '--student',
      'mobilenet_v2,mobilenet_v3_small',
      '--data',
      at('train'),
      '--output',
      at('both'),
      '--no-preflight',
      '--json',
    ]);
    expect(code).toBe(0);
    expect(
      documents()
        .filter(({ type }) => type === 'done')
        .map(({ studentName }) => studentName),
    ).toEqual(['mobilenet_v2', 'mobilenet_v3_small']);
    expect(stderr).toMatch(/^mobilenet_v3_small: done: 1 step in /mu);
    const exported = await lgdistill(['export', at('both'), '--to', at('x.safetensors')]);
    expect([exported.code, exported.stderr.split('\n')[0]]).toEqual([1, 'error FILE_NOT_FOUND']);
    expect(exported.stderr).toContain(at('both', 'mobilenet_v3_small'));
    expect((await lgdistill(['export', at('both', 'mobilenet_v3_small'), '--to', at('x.safetensors')])).code).toBe(0);
    // by auto: these are few names
    expect((await lgdistill(['compare', at('both')])).stdout).toMatch(/^mobilenet_v3_small +seed /mu);
  });

  test('the same folder again is refused unless told to overwrite', async () => {
    const { code, stderr } = await lgdistill(['distill', ...task, '--data', at('train'), '--output', at('run')]);
    expect(code).toBe(2);
    expect(stderr).toContain('error BAD_CONFIG');
    expect(stderr).toContain('overwrite');
  });

  test('export writes the student; evaluate takes it and finds what the run found', async () => {
    const [file, bank] = [at('student.safetensors'), at('classifier.safetensors')];
    const exported = await lgdistill(['export', at('run', 'checkpoints', 'last'), '--to', file, '--bank', bank]);
    expect([exported.code, exported.stderr]).toEqual([0, '']);
    expect(exported.stdout).toContain('mobilenet_v2 x 0.35');
    const told = await lgdistill([
      'export',
      at('run', 'checkpoints', 'last'),
      '--to',
      file,
      '--bank',
      bank,
      '--json',
      '--debug',
    ]);
    expect([told.code, told.documents()]).toMatchObject([0, [{ file, head: 'keep' }]]);
    expect((await readStudent(file)).info).toMatchObject({
      names: shapeNames,
      step: 6,
      bankHash: (await TextualSemanticsBank.load(bank)).hash,
    });
    for (const names of [
      ['--bank', bank],
      ['--teacher', tinyClip],
    ]) {
      const { code, documents } = await lgdistill([
        'evaluate',
        '--student',
        file,
        '--data',
        at('held-out'),
        '--device',
        'cpu',
        '--json',
        ...names,
      ]);
      expect(code).toBe(0);
      const [result] = documents() as unknown as StudentEvaluation[];
      expect(result!.student).toEqual(last.student);
      expect(result!.teacher).toEqual(names[0] === '--teacher' ? last.teacher : undefined);
    }
  });

  test('export --quantize says how near integers come, and what does not go with them', async () => {
    const file = at('int8.onnx');
    const to = ['export', at('run'), '--to', 'onnx', '--quantize', 'int8', '--classifier', '--output', file];
    const { code, stdout } = await lgdistill([...to, '--images', at('held-out')]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^in float32 compared on \d images \(.*held-out\): cosine [01]\.\d{6} or more$/mu);
    expect(stdout).toMatch(
      /^in int8, by \d+ images, compared with float32 on (\d+) \(.*held-out\): mean cosine [01]\.\d{4}, [01]\.\d{4} or more; the same answer for \d+ of \1$/mu,
    );
    const { stderr } = await lgdistill([...to, '--no-fold']);
    expect(stderr).toContain('Leave out --no-fold');
  });

  test('a bank of other names beside the file is not taken for its own', async () => {
    const file = at('elsewhere', 'student.safetensors');
    mkdirSync(at('elsewhere'));
    await lgdistill([
      'export',
      at('run', 'checkpoints', 'last'),
      '--to',
      file,
      '--bank',
      at('elsewhere', 'bank.safetensors'),
    ]);
    const evaluate = () =>
      lgdistill(['evaluate', '--student', file, '--data', at('held-out'), '--device', 'cpu', '--json']);
    expect((await evaluate()).documents()[0]!['student']).toEqual(last.student);
    await lgdistill([
      'bank',
      'build',
      '--to',
      at('elsewhere', 'bank.safetensors'),
      '--names',
      '["circle","square"]',
      '--templates',
      'none',
      '--text-encoder',
      tinyClip,
    ]);
    const { code, stderr } = await evaluate();
    expect([code, stderr.split('\n')[0]]).toEqual([2, 'error BAD_CONFIG']);
    expect(stderr).toContain('Give the text encoder (tiny-clip), or the text bank');
  });

  test('evaluate reads a run folder with the bank in it', async () => {
    const { code, stdout } = await lgdistill([
      'evaluate',
      '--student',
      at('run', 'checkpoints', 'last'),
      '--data',
      at('held-out'),
      '--device',
      'cpu',
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`^student +${(100 * last.student!.top1).toFixed(1)} %`, 'mu'));
  });

  test('rows stand in the order of the tables of predictions, and the first is told class by class', async () => {
    const output = at('ordered');
    const { stdout } = await lgdistill([
      'evaluate',
      'knn',
      '--student',
      at('run'),
      '--teacher',
      tinyClip,
      '--train',
      at('held-out'),
      '--data',
      at('held-out'),
      '--device',
      'cpu',
      '--output',
      output,
    ]);
    const { results } = JSON.parse(readFileSync(join(output, 'knn.json'), 'utf8')) as {
      results: { setting: string }[];
    };
    const settings = results.map(({ setting }) => setting);
    expect(settings).toEqual([expect.stringMatching(/^k /u), expect.stringMatching(/^teacher, k /u)]);
    expect(stdout.match(/^(?:teacher, )?k \d+, T [\d.]+/gmu)).toEqual([...settings, settings[0]]);
  });

  test('a student without its head, and names that have no folder, are refused', async () => {
    const file = at('backbone.safetensors');
    expect((await lgdistill(['export', at('run'), '--to', file, '--head', 'drop'])).code).toBe(0);
    const headless = await lgdistill(['evaluate', '--student', file, '--data', at('held-out'), '--teacher', tinyClip]);
    expect([headless.code, headless.stderr.split('\n')[0]]).toEqual([1, 'error BAD_MODEL']);
    const others = await lgdistill([
      'evaluate',
      '--student',
      at('run'),
      '--data',
      at('held-out'),
      '--teacher',
      tinyClip,
      '--names',
      '["circle","square"]',
    ]);
    expect([others.code, others.stderr.split('\n')[0]]).toEqual([1, 'error CLASS_MISMATCH']);
  });

  test('images of another set than the names need a bank of their own, and the error leads there', async () => {
    for (const [from, to] of [
      ['circle', 'pizza'],
      ['square', 'tv'],
    ])
      cpSync(at('held-out', from!), at('other-set', to!), { recursive: true });
    const evaluate = (...more: string[]) =>
      lgdistill(['evaluate', '--student', at('run'), '--data', at('other-set'), '--device', 'cpu', '--json', ...more]);
    const refused = await evaluate();
    expect([refused.code, refused.stderr.split('\n')[0]]).toEqual([1, 'error CLASS_MISMATCH']);
    for (const part of ['of another set than the category names', 'lgdistill bank build', 'lgdistill evaluate --bank'])
      expect(refused.stderr).toContain(part);
    const own = at('own.safetensors');
    expect(
      (
        await lgdistill([
          'bank',
          'build',
          '--names',
          at('other-set'),
          '--templates',
          'none',
          '--text-encoder',
          tinyClip,
          '--to',
          own,
        ])
      ).code,
    ).toBe(0);
    for (const flag of ['--bank', '--evaluate.bank']) {
      const { code, documents } = await evaluate(flag, own);
      expect(code).toBe(0);
      expect(documents()[0]).toMatchObject({ student: { classes: 2 } });
    }
    expect(
      (
        await evaluate('--evaluate.names', at('other-set'), '--text-encoder', tinyClip, '--templates', 'none')
      ).documents()[0],
    ).toMatchObject({ student: { classes: 2 } });
  });
});

test('a student trained without names is scored by the names of its evaluation', async () => {
  const args = [
    '--method',
    'seed',
    '--queue-size',
    '16',
    '--templates',
    'none',
    '--width-multiplier',
    '0.35',
    '--batch-size',
    '8',
    '--margin',
    '1',
    '--no-preflight',
    '--no-report',
    '--json',
  ];
  const trained = await lgdistill([
    'distill',
    ...common,
    ...args,
    '--max-steps',
    '2',
    '--data',
    at('train'),
    '--evaluate',
    at('held-out'),
    '--evaluate.names',
    at('held-out'),
    '--output',
    at('nameless'),
  ]);
  expect([trained.code, trained.stderr.match(/^error.*$/mu)]).toEqual([0, null]);
  const { student, teacher } = trained
    .documents()
    .findLast(({ type }) => type === 'evaluation') as unknown as EvaluationEvent;
  const evaluate = (...more: string[]) =>
    lgdistill([
      'evaluate',
      '--student',
      at('nameless'),
      '--data',
      at('held-out'),
      '--device',
      'cpu',
      '--templates',
      'none',
      '--json',
      ...more,
    ]);
  expect((await evaluate('--evaluate.names', at('held-out'), '--teacher', tinyClip)).documents()[0]).toMatchObject({
    student,
    teacher,
  });
  expect((await evaluate('--evaluate.names', at('held-out'), '--text-encoder', tinyClip)).documents()[0]).toMatchObject(
    { student },
  );
  expect((await evaluate()).stderr).toContain(
    'evaluate.names: evaluation needs category names.\n  -> Give names, evaluate.names or evaluate.bank',
  );
  expect((await evaluate('--evaluate.names', at('held-out'))).stderr).toContain(
    "textEncoder: is needed to embed the category names.\n  -> Give the text tower of the teacher's own model, or a bank built with it",
  );
  // an earlier student, which has none
  expect((await evaluate('--evaluate.names', at('held-out'), '--teacher', at('nameless'))).stderr).toMatch(
    /textEncoder: the teacher has no text tower to embed the names with: .*nameless[\s\S]*-> .*of a student: of its teacher/u,
  );
  const report = await lgdistill(['report', at('nameless'), '--output', at('nameless.html'), '--device', 'cpu']);
  expect([report.code, report.stderr.match(/no confusion.*/u)]).toEqual([0, null]);
  expect(report.stdout).not.toContain('no confusion');
});
