import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { configOptions, loadConfigFile, mergeConfig, parseConfig } from '../../lib/config/config.js';
import { LgdError } from '../../lib/errors.js';

function errorOf(action: () => unknown): LgdError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(LgdError);
    return error as LgdError;
  }
  throw new Error('nothing was thrown');
}

describe('parseConfig', () => {
  it('fills in every default, and parsing again changes nothing', () => {
    const config = parseConfig({});
    expect(config.loss).toEqual({
      alpha: 0.5,
      studentTemperature: 0.2,
      teacherTemperature: 0.01,
      momentum: 0.99,
      queueSize: 4096,
    });
    expect(config.train).toMatchObject({
      batchSize: 'auto',
      learningRate: 'auto',
      warmupEpochs: 5,
      sgdMomentum: 0.9,
      weightDecay: 1e-4,
    });
    expect(parseConfig(config)).toEqual(config);
    expect(parseConfig(JSON.parse(JSON.stringify(config)))).toEqual(config);
  });

  it('gives each option the default that the table shows', () => {
    const config = parseConfig({}) as unknown as Record<string, unknown>;
    for (const option of configOptions()) {
      const value = option.path
        .split('.')
        .reduce<unknown>((object, key) => (object as Record<string, unknown>)[key], config);
      expect(value, option.path).toEqual(option.default);
    }
  });

  it.each([
    [{ train: { batchSize: 0 } }, 'train.batchSize', '0', 'from 1'],
    [{ train: { batchSize: 2.5 } }, 'train.batchSize', '2.5', 'whole number'],
    [{ loss: { alpha: '0.5' } }, 'loss.alpha', '"0.5"', 'from 0 to 1'],
    [{ loss: { teacherTemperature: 0 } }, 'loss.teacherTemperature', '0', 'from 1e-9 to 1e9'],
    [{ train: { learningRate: NaN } }, 'train.learningRate', 'NaN', 'from 1e-9'],
    [{ method: 'lgq' }, 'method', '"lgq"', 'auto, lgd, text, visual, seed, hybrid, combined, feature'],
    [{ device: 'gpu' }, 'device', '"gpu"', 'cuda:N'],
    [{ names: ['cat', 3] }, 'names', '["cat",3]', 'list of texts'],
    [{ overwrite: 'yes' }, 'overwrite', '"yes"', 'true or false'],
    [{ threads: null }, 'threads', 'null', 'from 1'],
  ])('refuses %j', (raw, option, found, allowed) => {
    const error = errorOf(() => parseConfig(raw));
    expect(error).toMatchObject({ code: 'BAD_OPTION', option });
    expect(error.message).toContain(`Found: ${found}`);
    expect(error.message).toContain(allowed);
  });

  it.each<[string, number, string]>([
    ['loss.queueSize', 1e12, 'a whole number from 1 to 10000000'],
    ['train.batchSize', 1e12, 'auto, or a whole number from 1 to 65535'],
    ['evaluate.finetuneBatch', 1e12, 'a whole number from 1 to 65535'],
    ['dense.batchSize', 1e12, 'a whole number from 1 to 65535'],
    ['loss.studentTemperature', 1e-300, 'a number from 1e-9 to 1e9'],
    ['loss.teacherTemperature', 1e300, 'a number from 1e-9 to 1e9'],
    ['train.learningRate', 1e-300, 'auto, or a number from 1e-9 to 1e9'],
    ['dense.learningRate', 1e300, 'a number from 1e-9 to 1e9'],
    ['loss.momentum', 1 - 1e-9, 'a number from 0 to 0.999999'],
    ['train.weightDecay', 1e300, 'a number from 0 to 1'],
    ['train.adamwBeta2', 1, 'a number from 0 to 0.999999'],
    ['train.adamwEpsilon', 0, 'a number from 1e-15 to 1'],
    ['augment.scaleMin', 1e-300, 'a number from 1e-9 to 1'],
    ['augment.ratioMax', 1e300, 'a number from 0.01 to 100'],
    ['augment.brightness', 1e300, 'a number from 0 to 100'],
    ['augment.blurSigmaMin', 1e-300, 'a number from 0.01 to 1000'],
    ['dense.scaleMax', 1e300, 'a number from 0.01 to 100'],
  ])('refuses %s of %d, which float32 or memory has no room for', (option, found, allowed) => {
    const [group, name] = option.split('.') as [string, string];
    expect(errorOf(() => parseConfig({ [group]: { [name]: found } }))).toMatchObject({
      code: 'BAD_OPTION',
      option,
      found,
      allowed,
    });
    expect(errorOf(() => mergeConfig(undefined, { [option]: String(found) }))).toMatchObject({
      code: 'BAD_OPTION',
      option,
      found,
      allowed,
    });
  });

  it.each([
    [{ train: { batchsize: 8 } }, 'train.batchsize', 'train.batchSize'],
    [{ batchSize: 8 }, 'batchSize', 'train.batchSize'],
    [{ trian: { epochs: 8 } }, 'trian', 'Did you mean train?'],
    [{ Data: { train: 'photos' } }, 'Data', 'Did you mean data?'],
    [{ temprature: 1 }, 'temprature', undefined],
    [{ loss: { momentm: 1 } }, 'loss.momentm', 'loss.momentum'],
    [{ augment: { flip: 1 } }, 'augment.flip', undefined],
    [{ nams: 'a' }, 'nams', 'names'],
  ])('refuses the unknown option in %j', (raw, option, near) => {
    const error = errorOf(() => parseConfig(raw));
    expect(error).toMatchObject({ code: 'BAD_CONFIG', option });
    if (near !== undefined) expect(error.mend).toContain(near);
    else expect(error.mend).toBeDefined();
  });

  it.each([
    [{ 'train.batchSize': 16 }, 'train.batchSize', 'Nest it: { "train": { "batchSize": 16 } }'],
    [
      { 'train.batchsize': 16 },
      'train.batchsize',
      'Did you mean train.batchSize? Nest it: { "train": { "batchSize": 16 } }',
    ],
    [{ epochs: 3 }, 'epochs', 'Did you mean train.epochs? Nest it: { "train": { "epochs": 3 } }'],
    [{ 'data.train': 'photos' }, 'data.train', 'Nest it: { "data": { "train": "photos" } }'],
    [{ Seed: 3 }, 'Seed', 'Did you mean seed?'],
  ])('says how %j is nested', (raw, option, mend) => {
    expect(errorOf(() => parseConfig(raw))).toMatchObject({ code: 'BAD_CONFIG', option, mend });
  });

  it.each([
    [{ train: { epochs: -3 } }, 'Give a whole number from 1'],
    [{ overwrite: 'yes' }, 'Give true or false'],
    [{ method: 'sed' }, 'Did you mean seed?'],
    [{ method: 'distil' }, 'Give one of auto, lgd, text, visual, seed, hybrid, combined, feature'],
    [{ method: 3 }, 'Give one of auto, lgd, text, visual, seed, hybrid, combined, feature'],
    [{ names: 3 }, 'Give a text, or a list: ["one","two"]'],
  ])('says what %j might be instead', (raw, mend) => {
    expect(errorOf(() => parseConfig(raw))).toMatchObject({ code: 'BAD_OPTION', mend });
  });

  it.each([
    null,
    3,
    'a',
    [],
    { train: 3 },
    new Map([['seed', 3]]),
    { train: new Map([['epochs', 3]]) },
    { augment: new Date(0) },
  ])('refuses %j, which is no set of options', (raw) => {
    expect(errorOf(() => parseConfig(raw)).code).toBe('BAD_CONFIG');
  });

  it('refuses a promise of options, and takes objects of other classes', () => {
    const mend = 'Put await before the call that gave it';
    expect(errorOf(() => parseConfig(Promise.resolve({ seed: 3 })))).toMatchObject({ code: 'BAD_CONFIG', mend });
    expect(errorOf(() => parseConfig({ train: Promise.resolve({ epochs: 3 }) }))).toMatchObject({
      option: 'train',
      mend,
    });
    expect(
      errorOf(() =>
        mergeConfig(
          loadConfigFile('config.json').catch(() => undefined),
          {},
        ),
      ),
    ).toMatchObject({ mend });
    class Options {
      get epochs() {
        return 3;
      }
    }
    expect(parseConfig({ train: new Options(), augment: Object.create(null) as object }).train.epochs).toBe(3);
  });

  it.each([
    [{ augment: { scaleMin: 0.8, scaleMax: 0.5 } }, 'augment.scaleMin'],
    [{ train: { epochs: 3, warmupEpochs: 5 } }, 'train.warmupEpochs'],
    [{ names: 'a.txt', bank: 'b.safetensors' }, 'names'],
    [{ evaluate: { metric: 'top1' } }, 'evaluate.metric'],
  ])('refuses options that do not go together: %j', (raw, option) => {
    expect(errorOf(() => parseConfig(raw))).toMatchObject({ code: 'BAD_CONFIG', option });
  });

  it('gives each optimiser its own numbers, and only those', () => {
    const numbers = (train: object) => {
      const { sgdMomentum, adamwBeta1, adamwBeta2, adamwEpsilon, weightDecay } = parseConfig({ train }).train;
      return { sgdMomentum, adamwBeta1, adamwBeta2, adamwEpsilon, weightDecay };
    };
    expect(numbers({})).toEqual({ sgdMomentum: 0.9, weightDecay: 1e-4 });
    expect(numbers({ optimizer: 'adamw' })).toEqual({
      adamwBeta1: 0.9,
      adamwBeta2: 0.999,
      adamwEpsilon: 1e-8,
      weightDecay: 0.05,
    });
    expect(numbers({ optimizer: 'adamw', adamwBeta2: 0.98, weightDecay: 1e-4 })).toMatchObject({
      adamwBeta1: 0.9,
      adamwBeta2: 0.98,
      weightDecay: 1e-4,
    });
    const config = parseConfig({ train: { optimizer: 'adamw' } });
    expect(parseConfig(config)).toEqual(config);
    expect(Object.keys(JSON.parse(JSON.stringify(config.train)) as object)).not.toContain('sgdMomentum');
    expect(parseConfig(JSON.parse(JSON.stringify(config)))).toEqual(config);
  });

  it('takes AdamW for students that were published with it, unless SGD or a number of it is given', () => {
    const optimizerOf = (name: string, train: object = {}) => parseConfig({ student: { name }, train }).train.optimizer;
    for (const name of ['convnext_atto', 'vit_small_patch32_224', 'resnet18,vit_tiny_patch16_224'])
      expect(optimizerOf(name), name).toBe('adamw');
    for (const name of ['resnet18', 'mobilenet_v2,efficientnet_b0', 'my_convnext_atto'])
      expect(optimizerOf(name), name).toBe('sgd');
    expect(optimizerOf('convnext_atto', { optimizer: 'sgd' })).toBe('sgd');
    expect(optimizerOf('convnext_atto', { sgdMomentum: 0.9 })).toBe('sgd');
    expect(optimizerOf('convnext_atto', { adamwBeta2: 0.98 })).toBe('adamw');
    const config = parseConfig({ student: { name: 'vit_tiny_patch16_224' } });
    expect(config.train).toMatchObject({ weightDecay: 0.05, learningRate: 'auto' });
    expect(parseConfig(config)).toEqual(config);
    expect(mergeConfig(config, { 'student.name': 'resnet18' }).train.optimizer).toBe('adamw'); // as it was written
  });

  it.each([
    [
      { optimizer: 'adamw', sgdMomentum: 0.9 },
      'train.sgdMomentum',
      'Leave train.sgdMomentum out, or set train.optimizer to sgd',
    ],
    [{ adamwBeta1: 0.9 }, 'train.adamwBeta1', 'Leave train.adamwBeta1 out, or set train.optimizer to adamw'],
    [
      { optimizer: 'sgd', adamwBeta2: 0.999 },
      'train.adamwBeta2',
      'Leave train.adamwBeta2 out, or set train.optimizer to adamw',
    ],
    [{ adamwEpsilon: 1e-8 }, 'train.adamwEpsilon', 'Leave train.adamwEpsilon out, or set train.optimizer to adamw'],
    [
      { optimizer: 'adamw', sgdMomentum: 0.9, learningRate: 'auto' },
      'train.sgdMomentum',
      'Leave train.sgdMomentum out, or set train.optimizer to sgd',
    ],
    // as a run's config.json has them
    [
      { optimizer: 'adamw', learningRate: 0.3, sgdMomentum: 0.9, weightDecay: 1e-4 },
      'train.sgdMomentum',
      'Leave train.sgdMomentum out, and train.learningRate and train.weightDecay where they were chosen for sgd; or set train.optimizer to sgd',
    ],
    [
      { optimizer: 'sgd', learningRate: 0.016, adamwBeta1: 0.9, adamwBeta2: 0.999, adamwEpsilon: 1e-8 },
      'train.adamwBeta1',
      'Leave train.adamwBeta1, train.adamwBeta2 and train.adamwEpsilon out, and train.learningRate where it was chosen for adamw; or set train.optimizer to adamw',
    ],
  ])('refuses numbers of another optimiser: %j', (train, option, mend) => {
    expect(errorOf(() => parseConfig({ train }))).toMatchObject({ code: 'BAD_CONFIG', option, mend });
    expect(
      errorOf(() => mergeConfig({ train: { ...train, [option.split('.')[1]!]: undefined } }, { [option]: '0.5' })),
    ).toMatchObject({ code: 'BAD_CONFIG', option });
  });

  it('warms up for a tenth of a short run, unless told otherwise', () => {
    expect(parseConfig({ train: { epochs: 20 } }).train.warmupEpochs).toBe(2);
    expect(parseConfig({ train: { epochs: 90 } }).train.warmupEpochs).toBe(5);
    expect(parseConfig({ train: { epochs: 20, warmupEpochs: 4 } }).train.warmupEpochs).toBe(4);
  });

  it('names every wrong option at once', () => {
    expect(errorOf(() => parseConfig({ loss: { alpha: 2 }, train: { epochs: 0 } })).message).toContain('train.epochs');
  });
});

describe('configOptions', () => {
  it('has a help text and a flag for each option, and aliases that are unique', () => {
    const options = configOptions();
    expect(options.length).toBeGreaterThan(50);
    for (const { path, help, flag, allowed } of options) {
      expect(help.length, path).toBeGreaterThan(10);
      expect(allowed, path).not.toBe('');
      expect(flag).toMatch(/^--[a-z0-9.-]+$/u);
    }
    const flags = options.flatMap(({ flag, alias }) => (alias === undefined ? [flag] : [flag, alias]));
    expect(new Set(flags).size).toBe(flags.length);
  });

  it('derives type, range and alias from the schema', () => {
    const find = (path: string) => configOptions().find((option) => option.path === path);
    expect(find('train.batchSize')).toMatchObject({
      type: 'integer',
      flag: '--train.batch-size',
      alias: '--batch-size',
      allowed: 'auto, or a whole number from 1 to 65535',
      default: 'auto',
    });
    expect(find('names')).toMatchObject({ type: 'list', flag: '--names', alias: undefined });
    expect(find('data.train')).toMatchObject({ alias: '--data' });
    expect(find('checkpoint.everyEpochs')).toMatchObject({ alias: undefined });
  });
});

describe('mergeConfig', () => {
  it('puts overrides on top of the file and reads command-line texts', () => {
    const file = { train: { batchSize: 32, epochs: 9 }, names: 'a.txt' };
    const config = mergeConfig(file, {
      'train.batchSize': '64',
      'loss.alpha': 0.25,
      overwrite: 'true',
      templates: '["{}","a {}"]',
      seed: undefined,
    });
    expect(config).toMatchObject({
      train: { batchSize: 64, epochs: 9 },
      loss: { alpha: 0.25 },
      overwrite: true,
      templates: ['{}', 'a {}'],
      names: 'a.txt',
      seed: 0,
    });
    expect(file.train.batchSize).toBe(32);
  });

  it('refuses unknown paths with the nearest name, and texts that are not numbers', () => {
    expect(errorOf(() => mergeConfig({}, { 'train.epoch': '3' }))).toMatchObject({
      code: 'BAD_OPTION',
      option: 'train.epoch',
      mend: 'Did you mean train.epochs?',
    });
    expect(errorOf(() => mergeConfig({}, { 'train.epochs': 'many' }))).toMatchObject({
      code: 'BAD_OPTION',
      option: 'train.epochs',
      found: 'many',
    });
    expect(errorOf(() => mergeConfig({ train: 4 }, { 'train.epochs': 3 })).code).toBe('BAD_CONFIG');
    expect(errorOf(() => mergeConfig([], { seed: 1 })).code).toBe('BAD_CONFIG');
    expect(errorOf(() => mergeConfig({}, { '__proto__.polluted': '1' })).code).toBe('BAD_OPTION');
  });
});

describe('loadConfigFile', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lgd-config-'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  it('reads JSON and explains what is wrong with the rest', async () => {
    await writeFile(join(folder, 'good.json'), '{"seed": 7}');
    await writeFile(join(folder, 'marked.json'), '\uFEFF{"seed": 7}');
    await writeFile(join(folder, 'bad.json'), '{"seed": 7,,}');
    for (const name of ['good.json', 'marked.json'])
      expect(await loadConfigFile(join(folder, name))).toEqual({ seed: 7 });
    await expect(loadConfigFile(join(folder, 'bad.json'))).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await expect(loadConfigFile(join(folder, 'none.json'))).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      option: 'config',
    });
    await expect(loadConfigFile(folder)).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  });
});
