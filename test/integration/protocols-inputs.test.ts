/** What the protocols are given: classes in another order, images that cannot be decoded, a command line. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { create } from 'tar';
import { beforeAll, describe, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { protocols, type ProtocolEvaluation } from '../../lib/evaluate/protocol-result.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { lgdistill } from '../cli/program.js';
import { randomNormal } from '../fixtures/random.js';
import { ofType, shapeNames, smallConfig, train } from '../fixtures/tiny.js';
import { ProtocolRuns, testCount } from './protocols-fixture.js';

const runs = new ProtocolRuns();
const { at, run, student } = runs;
beforeAll(() => runs.prepare());

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
