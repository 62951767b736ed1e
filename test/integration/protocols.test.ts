/** Each protocol on a few drawings, recomputed here in another way from the student's features. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { create } from 'tar';
import { beforeAll, describe, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { openDevice } from '../../lib/device.js';
import { ImageFeatures } from '../../lib/evaluate/features.js';
import { protocols, type ProtocolEvaluation } from '../../lib/evaluate/protocol-result.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { wilsonInterval } from '../../lib/evaluate/score.js';
import { loadTeacher, PrecomputedTeacher, studentGraph } from '../../lib/models/index.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, ofType, shapeNames, smallConfig, tinyClip, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const student = at('student.safetensors');
const widthMultiplier = 0.35;
const [trainCount, testCount] = [12, 5];
interface Seen {
  train: number[][];
  test: number[][];
  trainLabels: number[];
  testLabels: number[];
}
let features: Seen;

beforeAll(async () => {
  const { info, weights } = await writeMadeUpStudent(student, 'mobilenet_v2', { widthMultiplier, resolution: 32 });
  await drawShapes(at('train'), { count: trainCount, telling: true });
  await drawShapes(at('test'), { count: testCount, seed: 2, telling: true });
  using device = await openDevice('cpu');
  using extractor = ImageFeatures.ofStudent({
    device,
    graph: studentGraph('mobilenet_v2', { embeddingSize: 24, widthMultiplier }),
    weights,
    batch: 7,
    resolution: 32,
    precision: undefined,
    mean: info.mean,
    std: info.std,
  });
  features = await seenBy(extractor, 32);
});

async function seenBy(extractor: ImageFeatures, resolution: number): Promise<Seen> {
  const { device } = extractor;
  const read = async (name: string) => {
    using images = await ImageCache.build(await openImageFolder(at(name), { labels: 'folders' }), {
      device,
      resolution,
      margin: 1,
      memoryLimitBytes: 2 ** 26,
      spillFolder: folder,
      maxBrokenShare: 0,
    });
    const { rows } = await extractor.all(images, {});
    return {
      rows: Array.from({ length: images.length }, (_, i) => [
        ...rows.subarray(i * extractor.dimension, (i + 1) * extractor.dimension),
      ]),
      labels: [...images.labels!],
    };
  };
  const [learnt, judged] = [await read('train'), await read('test')];
  return { train: learnt.rows, test: judged.rows, trainLabels: learnt.labels, testLabels: judged.labels };
}

const run = (protocol: ProtocolEvaluation['protocol'], evaluate: object = {}, teacher?: string) =>
  evaluateProtocol({
    student,
    protocol,
    config: {
      device: 'cpu',
      seed: 5,
      teacher,
      evaluate: { data: at('test'), train: at('train'), output: at('out'), ...evaluate },
    },
  });

function checkScore({ results, names, images }: ProtocolEvaluation): void {
  for (const { score, classes, answers } of results) {
    const right = answers.predicted.filter((value, i) => value === answers.targets[i]).length;
    expect(score).toMatchObject({
      top1: right / images.length,
      correct1: right,
      images: 4 * testCount,
      classes: 4,
      topK: 4,
      top5: 1,
    });
    expect(score.interval1).toEqual(wilsonInterval(right, 4 * testCount));
    expect(classes.map(({ name, images: count, correct1 }) => [name, count, correct1])).toEqual(
      names.map((name, k) => [
        name,
        testCount,
        answers.predicted.filter((value, i) => value === k && answers.targets[i] === k).length,
      ]),
    );
  }
}

describe('knn', () => {
  const [k, T] = [7, 0.2];
  function votes({ train, test, trainLabels }: Seen): number[] {
    const unit = (row: number[]) => row.map((value) => value / Math.hypot(...row));
    const known = train.map(unit);
    return test.map(unit).map((row) => {
      const near = known
        .map((other, i) => ({
          cosine: other.reduce((sum, value, d) => sum + value * row[d]!, 0),
          label: trainLabels[i]!,
        }))
        .sort((a, b) => b.cosine - a.cosine)
        .slice(0, k);
      const weights = shapeNames.map((_, label) =>
        near.filter((one) => one.label === label).reduce((sum, { cosine }) => sum + Math.exp(cosine / T), 0),
      );
      return weights.indexOf(Math.max(...weights));
    });
  }

  test('votes of the nearest by cosine, weighed exp(cosine / T)', async () => {
    const evaluation = await run('knn', { neighbours: k, neighbourTemperature: T });
    expect(evaluation.results).toHaveLength(1);
    expect([...evaluation.results[0]!.answers.predicted]).toEqual(votes(features));
    expect(evaluation.results[0]).toMatchObject({ setting: 'k 7, T 0.2', learntFrom: 4 * trainCount });
    checkScore(evaluation);
    expect((await run('knn', { neighbours: 1e12 })).results[0]).toMatchObject({
      setting: `k ${4 * trainCount}, T 0.1`,
    });
  });

  test('of a teacher, by its embeddings, beside the student', async () => {
    const evaluation = await run('knn', { neighbours: k, neighbourTemperature: T }, tinyClip);
    expect(evaluation.results.map(({ setting }) => setting)).toEqual(['k 7, T 0.2', 'teacher, k 7, T 0.2']);
    checkScore(evaluation);
    using device = await openDevice('cpu');
    await using teacher = await loadTeacher(tinyClip, { device });
    if (teacher.kind === 'precomputed') throw new Error('a teacher that sees images was expected');
    using extractor = ImageFeatures.ofTeacher(device, teacher, { batch: 7, precision: undefined, signal: undefined });
    expect([...evaluation.results[1]!.answers.predicted]).toEqual(votes(await seenBy(extractor, teacher.resolution)));
    expect(evaluation.files.map((file) => file.slice(at('out').length + 1))).toEqual([
      'knn.json',
      'knn-1.csv',
      'knn-2.csv',
    ]);
    const embeddings = at('embeddings.safetensors');
    await PrecomputedTeacher.save(embeddings, ['a.png'], new Float32Array(24).fill(1));
    expect((await run('knn', {}, embeddings)).results).toHaveLength(1);
  });
});

describe('linear', () => {
  test('L-BFGS: the minimum of the regularised cross entropy at the C chosen, found here by plain gradient descent', async () => {
    const evaluation = await run('linear', { solver: 'lbfgs', heldOut: 0.25 });
    const [result] = evaluation.results;
    checkScore(evaluation);
    const C = result!.sweep!.find(
      ({ value }) => `L-BFGS, C ${Number(value.toPrecision(3))}` === result!.setting,
    )!.value;
    expect([...result!.answers.predicted]).toEqual(logisticByDescent(C));
    expect(Math.max(...result!.sweep!.map(({ top1 }) => top1))).toBe(
      result!.sweep!.find(({ value }) => value === C)!.top1,
    );
  });

  test('SGD and L-BFGS are both told, each with its sweep', async () => {
    const { results, files } = await run('linear', { probeEpochs: 5 });
    expect(results.map(({ setting }) => setting.replace(/[\d.e+-]+$/u, ''))).toEqual(['SGD, rate ', 'L-BFGS, C ']);
    expect(results[0]!.sweep!.map(({ value }) => value)).toEqual([0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]);
    expect(files.map((file) => file.slice(at('out').length + 1))).toEqual([
      'linear.json',
      'linear-1.csv',
      'linear-2.csv',
    ]);
  });
});

/**
 * Predictions of multinomial logistic regression on standardised features: 3000 steps of accelerated gradient descent
 * in float64.
 */
function logisticByDescent(C: number): number[] {
  const { train: known, trainLabels } = features;
  const count = known.length;
  const size = known[0]!.length;
  const mean = known[0]!.map((_, d) => known.reduce((sum, row) => sum + row[d]!, 0) / count);
  const deviation = mean.map((m, d) => Math.sqrt(known.reduce((sum, row) => sum + (row[d]! - m) ** 2, 0) / count) || 1);
  const standard = (rows: number[][]) =>
    rows.map((row) => [...row.map((value, d) => (value - mean[d]!) / deviation[d]!), 1]);
  const x = standard(known);
  const logits = (row: number[], w: Float64Array) =>
    shapeNames.map((_, k) => row.reduce((sum, value, d) => sum + value * w[k * (size + 1) + d]!, 0));
  let w = new Float64Array(4 * (size + 1));
  let ahead = w.slice();
  const rate = 1 / (0.5 * (size + 1) + 1 / (C * count));
  for (let t = 0; t < 1500; t++) {
    const g = ahead.map((value, i) => (i % (size + 1) === size ? 0 : value / (C * count)));
    x.forEach((row, i) => {
      const scores = logits(row, ahead);
      const peak = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - peak), 0);
      scores.forEach((score, k) => {
        const slope = (Math.exp(score - peak) / total - (k === trainLabels[i] ? 1 : 0)) / count;
        for (let d = 0; d <= size; d++) g[k * (size + 1) + d]! += slope * row[d]!;
      });
    });
    const next = ahead.map((value, i) => value - rate * g[i]!);
    ahead = next.map((value, i) => value + (t / (t + 3)) * (value - w[i]!));
    w = next;
  }
  return standard(features.test).map((row) => {
    const scores = logits(row, w);
    return scores.indexOf(Math.max(...scores));
  });
}

describe('fine-tuning', () => {
  test('learns what the drawings tell apart', async () => {
    const evaluation = await run('finetune', { finetuneEpochs: 20, finetuneBatch: 12, finetuneRate: 0.6 });
    checkScore(evaluation);
    expect(evaluation.results[0]).toMatchObject({ setting: '100 % of the labels', learntFrom: 4 * trainCount });
    expect(evaluation.results[0]!.score.top1).toBeGreaterThan(0.85);
  });

  test('semi takes balanced, seeded shares, and says which images they were', async () => {
    const { results, files } = await run('semi', { finetuneEpochs: 1 });
    // one image a class at least
    expect(results.map(({ setting, learntFrom }) => [setting, learntFrom])).toEqual([
      ['1 % of the labels', 4],
      ['10 % of the labels', 4],
    ]);
    const list = (name: string) => readFileSync(at('out', name), 'utf8').trimEnd().split('\n');
    expect(list('labels-1.txt').map((id) => id.split('/')[0])).toEqual([...shapeNames].sort());
    expect(files).toContain(at('out', 'labels-10.txt'));
    await run('semi', { finetuneEpochs: 1, labelShare: 0.5 });
    const half = list('labels-50.txt');
    expect(half).toHaveLength(24);
    expect(list('labels-1.txt').every((id) => half.includes(id))).toBe(true);
  });

  test('a rate that diverges is an error that names it', async () => {
    await expect(run('finetune', { finetuneEpochs: 3, finetuneBatch: 8, finetuneRate: 1e9 })).rejects.toMatchObject({
      code: 'NON_FINITE',
      option: 'evaluate.finetuneRate',
    });
  });

  test('of single images of 32 pixels, which have no variance at the last map, is an error that names what makes them single', async () => {
    await expect(run('semi', { finetuneBatch: 1 })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'evaluate.finetuneBatch',
      found: 1,
    });
    for (const name of ['one', 'one-judged'])
      cpSync(at('train', 'circle', readdirSync(at('train', 'circle'))[0]!), at(name, 'circle', 'x.png'));
    await expect(run('semi', { train: at('one'), data: at('one-judged') })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'evaluate.train',
      found: 1,
      mend: 'Give more images, or a larger evaluate.labelShare',
    });
  });
});

describe('classes in another order', () => {
  const order = ['triangle', 'square', 'cross', 'circle']; // neither sorted nor drawn so

  /** The images of a folder as a tar shard, with `order` in classes.txt. */
  async function shard(name: string): Promise<void> {
    const members = at(`${name}-members`);
    mkdirSync(members);
    for (const [label, shape] of order.entries()) {
      for (let i = 0; existsSync(at(name, shape, `${i}.png`)); i++) {
        cpSync(at(name, shape, `${i}.png`), join(members, `${shape}-${i}.png`));
        writeFileSync(join(members, `${shape}-${i}.cls`), String(label));
      }
    }
    const path = at(`${name}-shards`);
    mkdirSync(path);
    writeFileSync(join(path, 'classes.txt'), order.join('\n'));
    await create({ file: join(path, '0.tar'), cwd: members, portable: true }, readdirSync(members).sort());
  }

  const [known, judged] = [at('train-shards'), at('test-shards')];
  beforeAll(async () => {
    for (const name of ['train', 'test']) await shard(name);
  });

  test('are told by their names, whichever of the two has them so', async () => {
    const named = ({ names, images, results: [result] }: ProtocolEvaluation) =>
      new Map(
        images.map((id, i) => [
          id.replace(/^0\.tar\/|\.png$/gu, '').replace('/', '-'),
          [result!.answers.targets, result!.answers.predicted].map((labels) => names[labels[i]!]),
        ]),
      );
    const expected = await run('knn', { neighbours: 5 });
    for (const [sources, names] of [
      [{ train: known }, order],
      [{ data: judged }, [...order].sort()],
      [{ train: known, data: judged }, order],
    ] as const) {
      const found = await run('knn', { neighbours: 5, ...sources });
      expect(found.names).toEqual(names);
      expect(named(found)).toEqual(named(expected));
      expect(found.results[0]!.score).toEqual(expected.results[0]!.score);
    }
    expect(expected.results[0]!.score.top1).toBeGreaterThan(0.5); // labels that mean something else would be found out
    for (const [protocol, more] of [
      ['linear', { solver: 'lbfgs' }],
      ['finetune', { finetuneEpochs: 20, finetuneBatch: 12, finetuneRate: 0.6 }],
    ] as const) {
      expect(named(await run(protocol, { ...more, data: judged })), protocol).toEqual(named(await run(protocol, more)));
    }
  });

  test('while training, too', async () => {
    const config = (name: string, evaluate: object) =>
      smallConfig(at('train'), at(name), {
        train: { epochs: 1, batchSize: 8, warmupEpochs: 0 },
        checkpoint: { everyEpochs: 0 },
        evaluate: {
          data: at('test'),
          train: at('train'),
          also: 'knn',
          online: true,
          everyEpochs: 1,
          neighbours: 5,
          ...evaluate,
        },
      });
    const last = async (name: string, evaluate = {}) =>
      ofType((await train(config(name, evaluate))).events, 'evaluation').at(-1)!;
    const [here, there] = [await last('ordered'), await last('ordered-otherwise', { data: judged })];
    for (const score of ['student', 'knn', 'online'] as const) expect(there[score], score).toEqual(here[score]);
  });
});

describe('images that cannot be decoded', () => {
  // sorted, the last image of one class, the first of another, the last of all
  const broken = ['circle/4.png', 'square/0.png', 'triangle/4.png'];
  const bank = at('bank.safetensors');
  const settings = { neighbours: 5, probeEpochs: 3, finetuneEpochs: 2, finetuneBatch: 12, labelShare: 0.5 };
  beforeAll(async () => {
    await TextualSemanticsBank.fromEmbeddings(shapeNames, randomNormal(4 * 24, 9), { encoderId: 'made up' }).save(bank);
    for (const name of ['train', 'test']) {
      cpSync(at(name), at(`broken-${name}`), { recursive: true });
      for (const id of broken) writeFileSync(at(`broken-${name}`, id), 'no picture');
    }
  });

  const tuned = { 'evaluation images': '48 of 48', 'fine-tuning': '4 of 4', student: '20 of 20' };
  const phasesOf = {
    zeroshot: { student: '20 of 20' },
    knn: { features: '68 of 68' },
    linear: { features: '68 of 68', 'linear probes': '200 of 200' },
    semi: tuned,
    finetune: { ...tuned, 'fine-tuning': '6 of 6' },
  };

  test.each(protocols)('count in no score of %s, whether they are known before or stood in for', async (protocol) => {
    const phases = new Map<string, string>();
    const found = async (cache: 'all' | 'stream', output: string) =>
      evaluateProtocol({
        student,
        protocol,
        onProgress: ({ phase, done, total }) => phases.set(phase, `${done} of ${total}`),
        config: {
          device: 'cpu',
          seed: 5,
          data: { cache, maxBrokenShare: 0.2 },
          evaluate: {
            data: at('broken-test'),
            ...(protocol === 'zeroshot' ? { bank } : { train: at('broken-train') }),
            output: at(output),
            ...settings,
          },
        },
      });
    const all = await found('all', 'known');
    phases.clear();
    const streamed = await found('stream', 'stood-in');
    // streamed images are decoded while they are embedded
    expect(Object.fromEntries(phases)).toEqual(phasesOf[protocol]);
    expect(streamed.images).toEqual(all.images);
    expect(all.images).toHaveLength(4 * testCount - broken.length);
    const seen = ({ results }: ProtocolEvaluation) =>
      results.map(({ setting, score, classes, learntFrom, answers }) => ({
        setting,
        score,
        classes,
        learntFrom,
        answers,
      }));
    expect(seen(streamed)).toEqual(seen(all));
    const tables = (output: string) =>
      readdirSync(at(output))
        .filter((file) => file.startsWith(protocol) && file.endsWith('.csv'))
        .map((file) => readFileSync(at(output, file), 'utf8'));
    expect(tables('stood-in')).toEqual(tables('known'));
    for (const table of tables('stood-in')) expect(table.split('\n')).toHaveLength(2 + 4 * testCount - broken.length);
    if (protocol === 'semi')
      expect(readFileSync(at('stood-in', 'labels-50.txt'), 'utf8')).toBe(
        readFileSync(at('known', 'labels-50.txt'), 'utf8'),
      );
  });
});

describe('from the command line', () => {
  test('prints scores and classes, and writes results and predictions', async () => {
    const { code, stdout } = await lgdistill([
      'evaluate',
      'knn',
      '--student',
      student,
      '--data',
      at('test'),
      '--train',
      at('train'),
      '--device',
      'cpu',
      '--output',
      at('cli'),
      '--neighbours',
      '3',
    ]);
    expect(code).toBe(0);
    for (const part of ['k 3, T 0.1', '95 % interval', 'most often taken for', 'circle', at('cli', 'knn.json')])
      expect(stdout).toContain(part);
    expect(stdout.match(/top-\d/gu)).toEqual(['top-1', 'top-4', 'top-1', 'top-4']); // of four classes, in both tables
    const json = JSON.parse(readFileSync(at('cli', 'knn.json'), 'utf8')) as {
      protocol: string;
      results: { score: { top1: number }; classes: unknown[] }[];
    };
    expect(json).toMatchObject({ protocol: 'knn', student, results: [{ learntFrom: 48, images: 20 }] });
    expect(json.results[0]!.classes).toHaveLength(4);
    const [head, ...rows] = readFileSync(at('cli', 'knn.csv'), 'utf8').trimEnd().split('\n');
    expect(head).toBe('image,class,predicted,classes before');
    const right = rows.filter((row) => row.split(',')[1] === row.split(',')[2]).length;
    expect(right / 20).toBe(json.results[0]!.score.top1);
    expect(rows.filter((row) => row.endsWith(',0'))).toHaveLength(right);
  });

  test('says what is missing or does not fit', async () => {
    const evaluate = (...more: string[]) =>
      lgdistill(['evaluate', 'linear', '--student', student, '--device', 'cpu', ...more]);
    expect((await evaluate('--data', at('test'))).stderr).toMatch(/BAD_CONFIG[\s\S]*evaluate\.train/u);
    expect((await lgdistill(['evaluate', 'liner', '--student', student])).stderr).toContain(
      'zeroshot, knn, linear, semi, finetune',
    );
    mkdirSync(at('other', 'star'), { recursive: true });
    writeFileSync(at('other', 'star', 'a.png'), readFileSync(at('test', 'circle', '0.png')));
    expect((await evaluate('--data', at('test'), '--train', at('other'))).stderr).toMatch(
      /CLASS_MISMATCH[\s\S]*"star"/u,
    );
    expect(existsSync(at('evaluation'))).toBe(false);
  });

  test('calls a class folder without images by that, whichever of the folders has it', async () => {
    cpSync(at('test'), at('hollow'), { recursive: true });
    for (const file of readdirSync(at('hollow', 'circle'))) rmSync(at('hollow', 'circle', file));
    for (const [data, train] of [
      ['hollow', 'train'],
      ['test', 'hollow'],
    ] as const) {
      const { stderr } = await lgdistill([
        'evaluate',
        'knn',
        '--student',
        student,
        '--device',
        'cpu',
        '--data',
        at(data),
        '--train',
        at(train),
      ]);
      expect(stderr).toContain(`in ${at('hollow')} there are folders without images: "circle"`);
      expect(stderr).toContain('-> Put images into these folders, or take the classes out of both');
    }
    const bank = at('hollow-bank.safetensors');
    await TextualSemanticsBank.fromEmbeddings(shapeNames, randomNormal(4 * 24, 9), { encoderId: 'made up' }).save(bank);
    const { stderr } = await lgdistill([
      'evaluate',
      'zeroshot',
      '--student',
      student,
      '--device',
      'cpu',
      '--data',
      at('hollow'),
      '--bank',
      bank,
    ]);
    expect(stderr).toContain('class folders that are there and hold no image (1): "circle"');
  });
});
