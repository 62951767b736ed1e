/** Each protocol on a few drawings, recomputed here in another way from the student's features. */
import { cpSync, readdirSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { openDevice } from '../../lib/device.js';
import { ImageFeatures } from '../../lib/evaluate/features.js';
import type { ProtocolEvaluation } from '../../lib/evaluate/protocol-result.js';
import { wilsonInterval } from '../../lib/evaluate/score.js';
import { loadTeacher, PrecomputedTeacher, studentGraph } from '../../lib/models/index.js';
import { shapeNames, tinyClip } from '../fixtures/tiny.js';
import { ProtocolRuns, testCount, trainCount, widthMultiplier } from './protocols-fixture.js';

const runs = new ProtocolRuns();
const { at, folder, run } = runs;
interface Seen {
  train: number[][];
  test: number[][];
  trainLabels: number[];
  testLabels: number[];
}
let features: Seen;

beforeAll(async () => {
  const { info, weights } = await runs.prepare();
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
