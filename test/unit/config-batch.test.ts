import { describe, expect, it, test } from 'vitest';
import { adviseBatch, chooseBatch } from '../../lib/config/batch.js';
import { configOptions, mergeConfig, parseConfig, type ConfigInput } from '../../lib/config/config.js';
import { makeSchedule } from '../../lib/train/schedule.js';

const train = (given: ConfigInput['train'] = {}) => parseConfig({ train: given }).train;
const numbers = (images: number | undefined, given: ConfigInput['train'] = {}) => {
  const { batchSize, learningRate } = chooseBatch(train(given), images);
  return [batchSize, learningRate];
};

describe('where neither is given', () => {
  it('many images have the published recipe, exactly', () => {
    for (const images of [4096, 50_000, 100_000, 1_281_167, 1e9]) expect(numbers(images)).toEqual([256, 0.03]);
    expect([numbers(100_000, { epochs: 1 }), numbers(1_281_167, { epochs: 90, accumulate: 8 })]).toEqual([
      [256, 0.03],
      [256, 0.03],
    ]);
    expect(chooseBatch(train(), 100_000).words).toBe(
      'batches of 256 at a learning rate of 0.03, by auto for 100000 images and 200 epochs: as published',
    );
  });

  it('few have a batch that makes steps enough, and a higher rate', () => {
    expect([294, 511, 512, 1023, 1024, 4095].map((images) => numbers(images))).toEqual([
      [16, 0.3],
      [16, 0.3],
      [32, 0.3],
      [32, 0.3],
      [64, 0.3],
      [64, 0.3],
    ]);
    expect(chooseBatch(train({ epochs: 210 }), 294)).toEqual({
      batchSize: 16,
      learningRate: 0.3,
      byAuto: ['batchSize', 'learningRate'],
      images: 294,
      words:
        'batches of 16 at a learning rate of 0.3, by auto for 294 images and 210 epochs: the published 256 would make 1 step an epoch, 210 in all',
    });
  });

  it('of few images no batch is larger than they are', () => {
    expect([1, 2, 3, 15, 16, 17].map((images) => numbers(images)[0])).toEqual([1, 2, 2, 8, 16, 16]);
    expect(chooseBatch(train({ epochs: 1 }), 1).words).toMatch(
      /by auto for 1 image and 1 epoch: the published 256 would make no step$/u,
    );
  });

  it('the fewer the epochs, the smaller the batch', () => {
    expect([10, 40, 80, 200].map((epochs) => numbers(3000, { epochs })[0])).toEqual([16, 32, 64, 64]);
    expect([numbers(20_000, { epochs: 13 }), numbers(20_000, { epochs: 12 })]).toEqual([
      [256, 0.03],
      [64, 0.3],
    ]);
  });

  it('batches that a step gathers count', () => {
    expect([numbers(3000, { accumulate: 4 }), numbers(3000, { accumulate: 16 })]).toEqual([
      [32, 0.3],
      [16, 0.15],
    ]);
    expect(numbers(20_000, { accumulate: 16 })).toEqual([64, 0.0375]);
  });

  it('an unknown number of images is taken to be large, and said to be unknown', () => {
    expect(numbers(undefined)).toEqual([256, 0.03]);
    expect(chooseBatch(train(), undefined)).toMatchObject({
      images: undefined,
      words: expect.stringContaining('how many images there are was not told'),
    });
  });
});

describe('where one is given, it stays, and', () => {
  it('the rate follows the images, and is less for large steps of few', () => {
    expect([8, 32, 128, 192, 256, 1024, 2048].map((batchSize) => numbers(3000, { batchSize }))).toEqual([
      [8, 0.3],
      [32, 0.3],
      [128, 0.3],
      [192, 0.2],
      [256, 0.15],
      [1024, 0.0375],
      [2048, 0.03],
    ]);
    expect([8, 64, 256].map((batchSize) => numbers(100_000, { batchSize })[1])).toEqual([0.03, 0.03, 0.03]);
    expect(chooseBatch(train({ batchSize: 32 }), 294)).toMatchObject({
      byAuto: ['learningRate'],
      words: expect.stringMatching(/^a learning rate of 0.3, by auto for 294 images/u),
    });
  });

  it('the batch follows the images', () => {
    expect([numbers(294, { learningRate: 0.5 }), numbers(100_000, { learningRate: 0.5 })]).toEqual([
      [16, 0.5],
      [256, 0.5],
    ]);
    expect(chooseBatch(train({ learningRate: 0.5 }), 294)).toMatchObject({
      byAuto: ['batchSize'],
      words: expect.stringMatching(/^batches of 16, by auto for 294 images/u),
    });
  });
});

describe('by AdamW', () => {
  const optimizer = 'adamw' as const;

  it('the batch is the same, and the rate such that the scaled one is', () => {
    expect([294, 512, 1024, 100_000].map((images) => numbers(images, { optimizer }))).toEqual([
      [16, 0.032],
      [32, 0.016],
      [64, 0.008],
      [256, 0.002],
    ]);
    for (const given of [{ batchSize: 100 }, { accumulate: 16 }, { batchSize: 4096, accumulate: 4 }]) {
      const [batchSize, learningRate] = numbers(294, { optimizer, ...given }) as [number, number];
      const { peak } = makeSchedule({
        batchSize,
        learningRate,
        accumulate: given.accumulate ?? 1,
        batchesPerEpoch: 10,
        epochs: 10,
        warmupEpochs: 1,
      });
      expect(peak).toBeCloseTo(0.002, 5);
    }
    expect(numbers(294, { optimizer, learningRate: 0.5 })).toEqual([16, 0.5]);
  });

  it("its rate is the student's, of several the least", () => {
    const rateOf = (...students: string[]) =>
      chooseBatch(train({ optimizer, batchSize: 64 }), 3000, students).learningRate;
    expect(rateOf()).toBe(0.008);
    expect(rateOf('resnet18', 'convnext_atto')).toBe(0.008);
    expect(rateOf('vit_tiny_patch16_224')).toBe(0.002);
    expect(rateOf('convnext_atto', 'vit_small_patch32_224', 'resnet18')).toBe(0.002);
    expect(chooseBatch(train(), 3000, ['vit_tiny_patch16_224']).learningRate).toBe(0.3); // of SGD
  });

  it('a run is told no other rate than its student was given', () => {
    const { student } = parseConfig({ student: { name: 'vit_tiny_patch16_224' } });
    const choice = chooseBatch(train({ optimizer }), undefined, [student.name]);
    const { batchSize, learningRate } = choice;
    expect([batchSize, learningRate]).toEqual([256, 0.0005]);
    const config = { train: { ...train({ optimizer }), batchSize, learningRate }, student };
    expect(adviseBatch(config, choice, 100_000, 78_000)).toBeUndefined();
    expect(adviseBatch(config, choice, 294, 3600)).toMatch(
      /it would be batches of 16 at a learning rate of 0.008 for AdamW/u,
    );
  });

  it('nothing but the batch is said to be as published', () => {
    expect(chooseBatch(train({ optimizer }), 100_000).words).toBe(
      'batches of 256 at a learning rate of 0.002 for AdamW, by auto for 100000 images and 200 epochs: with the published batches',
    );
    expect(chooseBatch(train({ optimizer, batchSize: 512 }), 100_000).words).toBe(
      'a learning rate of 0.001 for AdamW, by auto for 100000 images and 200 epochs',
    );
    expect(chooseBatch(train({ optimizer, batchSize: 512 }), undefined).words).toBe(
      'a learning rate of 0.001 for AdamW, by auto: how many images there are was not told',
    );
  });
});

it('where both are given nothing is chosen', () => {
  expect(chooseBatch(train({ batchSize: 256, learningRate: 0.03 }), 3)).toEqual({
    batchSize: 256,
    learningRate: 0.03,
    byAuto: [],
    images: 3,
    words: undefined,
  });
});

it.each([0, -1, 2.5, NaN, '7' as unknown as number])('%s is no number of images', (images) => {
  expect(() => chooseBatch(train(), images)).toThrow(expect.objectContaining({ code: 'BAD_OPTION', option: 'images' }));
});

test('auto is what an option says of itself, and can be given in its place', () => {
  expect(parseConfig({}).train).toMatchObject({ batchSize: 'auto', learningRate: 'auto' });
  expect(
    mergeConfig({ train: { batchSize: 8 } }, { 'train.batchSize': 'auto', 'train.learningRate': '0.1' }).train,
  ).toMatchObject({ batchSize: 'auto', learningRate: 0.1 });
  const [batch, rate] = ['train.batchSize', 'train.learningRate'].map((path) =>
    configOptions().find((option) => option.path === path)!,
  );
  expect([batch, rate]).toEqual([
    expect.objectContaining({
      type: 'integer',
      allowed: 'auto, or a whole number from 1 to 65535',
      words: ['auto'],
      choices: undefined,
      default: 'auto',
    }),
    expect.objectContaining({
      type: 'number',
      allowed: 'auto, or a number from 1e-9 to 1e9',
      words: ['auto'],
      choices: undefined,
      default: 'auto',
    }),
  ]);
  expect(configOptions().filter(({ words }) => words !== undefined)).toEqual([batch, rate]);
  for (const train of [{ batchSize: 'many' }, { learningRate: 'automatic' }])
    expect(() => parseConfig({ train } as unknown as ConfigInput)).toThrow(
      expect.objectContaining({ code: 'BAD_OPTION', mend: expect.stringContaining('Give auto, or a ') }),
    );
});

describe('what is said at the start', () => {
  const adviseTold = (told: number | undefined) => (given: ConfigInput['train'], images: number, steps: number) => {
    const choice = chooseBatch(train(given), told);
    const { batchSize, learningRate } = choice;
    const config: Parameters<typeof adviseBatch>[0] = {
      train: { ...train(given), batchSize, learningRate },
      student: parseConfig({}).student,
    };
    return adviseBatch(config, choice, images, steps);
  };
  const advise = (given: ConfigInput['train'], images: number, steps: number) =>
    adviseTold(images)(given, images, steps);

  it('is nothing where there are steps enough', () => {
    expect(advise({}, 294, 3600)).toBeUndefined();
    expect(advise({ batchSize: 256 }, 1e6, 1000)).toBeUndefined();
  });

  it('of few steps it is what would make more', () => {
    expect(advise({ batchSize: 256, learningRate: 0.03 }, 294, 200)).toBe(
      '200 steps are few to train a network: --batch-size auto --learning-rate auto would make 3600, of 16 images at 0.3 (docs/tuning.md, Few images)',
    );
    expect(advise({ batchSize: 256 }, 294, 200)).toMatch(/: --batch-size auto would make 3600, of 16 images at 0.3 /u);
    expect(advise({ epochs: 2 }, 294, 36)).toBe(
      '36 steps are few to train a network: more --epochs give more (docs/tuning.md, Few images)',
    );
    expect(advise({ epochs: 1 }, 100_000, 390)).toMatch(/: more --epochs give more /u);
    expect(advise({ epochs: 1, batchSize: 8, learningRate: 1 }, 8, 1)).toMatch(/^1 step is few /u);
  });

  it('of a distiller that was not told how many images there are, what they would have been with it', () => {
    const untold = adviseTold(undefined);
    expect(untold({}, 294, 200)).toMatch(
      /^with images: 294 in the options of Distiller it would be batches of 16 at a learning rate of 0.3, by auto for 294 images/u,
    );
    expect(untold({ batchSize: 16 }, 294, 3600)).toMatch(/it would be a learning rate of 0.3, by auto/u);
    expect(untold({ batchSize: 16, learningRate: 0.1 }, 294, 3600)).toBeUndefined();
    expect(untold({}, 100_000, 78_000)).toBeUndefined();
  });
});
