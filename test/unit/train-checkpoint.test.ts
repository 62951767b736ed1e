import { cp, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { hasCheckpoint, listCheckpoints } from '../../lib/files/checkpoint-folders.js';
import { hashFile } from '../../lib/files/hash-file.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { readCheckpoint, type CheckpointContent } from '../../lib/runs/checkpoint.js';
import { CheckpointStore } from '../../lib/runs/checkpoint-store.js';
import { findStudentFile, readStudent } from '../../lib/runs/student-file.js';

const size = 3;
const bank = TextualSemanticsBank.fromEmbeddings(['cat', 'red panda'], Float32Array.of(1, 0, 0, 0, 2, 0), {
  encoderId: 'test/clip',
  templates: ['a {}'],
});

function content(step: number, { withBank = true } = {}): CheckpointContent {
  const tensor = (shape: number[], first: number) => ({
    shape,
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => first + i / 7),
  });
  return {
    info: {
      architecture: 'mobilenet_v2',
      widthMultiplier: 0.35,
      embeddingSize: size,
      resolution: 64,
      mean: [0.1, 0.2, 0.3],
      std: [0.4, 0.5, 0.6],
      names: withBank ? bank.names : [],
      templates: bank.templates,
      bankHash: bank.hash,
      textEncoder: bank.encoderId,
      teacher: 'tiny',
      method: 'lgd',
      step,
      epoch: 0,
    },
    weights: { 'features.0.weight': tensor([2, 3, 1, 1], step), 'features.0.running_mean': tensor([2], -step) },
    optimizer: 'adamw',
    momentum: { 'features.0.weight': tensor([2, 3, 1, 1], 100 * step) },
    secondMoment: { 'features.0.weight': tensor([2, 3, 1, 1], 200 * step) },
    bank: withBank ? bank : undefined,
    semantic: {
      visual: tensor([2, size], 5).data,
      seen: Uint8Array.of(0, 1),
      queue: tensor([4, size], 9).data,
      queuePosition: 2,
      queueFilled: 4,
    },
    progress: { note: 'kept', value: 0.1 + 0.2 },
  };
}

let folder: string;
let store: CheckpointStore;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgd-checkpoint-'));
  store = await CheckpointStore.open(folder);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const plain = { best: null, isBest: false, keep: 2 };
const names = async () => (await readdir(store.folder)).sort();

describe('CheckpointStore', () => {
  it('reads back everything it wrote, to the bit', async () => {
    const written = content(12);
    const path = await store.write(written, { best: { metric: 'top1', value: 0.5, step: 12 }, isBest: true, keep: 2 });
    const read = await store.read('last');
    expect(read.folder).toBe(path);
    const manifest = JSON.parse(await readFile(join(path, 'manifest.json'), 'utf8')) as unknown;
    expect({ ...read, folder: undefined, bank: undefined }).toEqual({
      ...written,
      bank: undefined,
    });
    expect(read.bank?.hash).toBe(bank.hash);
    expect(manifest).toMatchObject({ step: 12, best: { metric: 'top1', value: 0.5, step: 12 } });
    expect((await store.read('best')).info.step).toBe(12);
  });

  it('takes a checkpoint that does not say what made it for one of SGD, as early ones are', async () => {
    const bySgd: CheckpointContent = { ...content(4), optimizer: 'sgd', secondMoment: undefined };
    const path = await store.write(bySgd, plain);
    const state = join(path, 'state.safetensors');
    const { tensors, metadata } = await readSafetensors(state);
    const { optimizer, ...early } = metadata;
    expect([optimizer, [...tensors.keys()]]).toEqual([
      'sgd',
      ['momentum.features.0.weight', 'visual_bank', 'seen', 'queue'],
    ]);
    const rewrite = async (other: Record<string, string>) => {
      await writeSafetensors(state, [...tensors], other);
      const manifest = JSON.parse(await readFile(join(path, 'manifest.json'), 'utf8')) as {
        files: Record<string, { bytes: number; sha256: string }>;
      };
      manifest.files['state.safetensors'] = { bytes: (await readFile(state)).length, sha256: await hashFile(state) };
      await writeFile(join(path, 'manifest.json'), JSON.stringify(manifest));
    };
    await rewrite({ ...early, optimizer: 'later' });
    await expect(store.read('last')).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining('later') as unknown,
    });
    await rewrite(early);
    expect(await store.read('last')).toMatchObject({ optimizer: 'sgd', momentum: bySgd.momentum });
    expect((await store.read('last')).secondMoment).toBeUndefined();
  });

  it('does without a bank and an empty queue', async () => {
    const written = {
      ...content(3, { withBank: false }),
      semantic: {
        visual: new Float32Array(0),
        seen: new Uint8Array(0),
        queue: new Float32Array(0),
        queuePosition: 0,
        queueFilled: 0,
      },
    };
    await store.write(written, plain);
    const read = await store.read('last');
    expect(read.bank).toBeUndefined();
    expect(read.semantic).toEqual(written.semantic);
  });

  it('keeps the latest and the best, and links point within the folder', async () => {
    for (const step of [10, 20, 30, 40, 50])
      await store.write(content(step), { best: null, isBest: step === 20, keep: 2 });
    expect(await names()).toEqual(['best', 'last', 'step-00000020', 'step-00000040', 'step-00000050']);
    expect(await readlink(join(store.folder, 'last'))).toBe('step-00000050');
    expect((await store.read('previous')).info.step).toBe(40);
    await rm(`${folder}-moved`, { recursive: true, force: true });
    await cp(folder, `${folder}-moved`, { recursive: true, verbatimSymlinks: true });
    expect((await (await CheckpointStore.open(`${folder}-moved`)).read('best')).info.step).toBe(20);
    await rm(`${folder}-moved`, { recursive: true });
  });

  it('takes the whole checkpoint of the same step and content that a kill left without links, unless it is damaged', async () => {
    const earlier = await store.write(content(6), plain);
    const left = await store.write(content(7), plain);
    const point = async () => {
      await rm(join(store.folder, 'last'));
      await symlink(basename(earlier), join(store.folder, 'last'));
    };
    await point();
    expect(await (await CheckpointStore.open(folder)).write(content(7), plain)).toBe(left);
    expect(await names()).toEqual(['last', 'step-00000006', 'step-00000007']);
    expect((await store.read('last')).info.step).toBe(7);
    await point();
    await truncate(join(left, 'state.safetensors'), 100);
    expect(basename(await store.write(content(7), plain))).toBe('step-00000007.1');
    expect((await store.read('last')).info.step).toBe(7);
  });

  it('never touches the checkpoint that last points to, even at the same step', async () => {
    const first = await store.write(content(7), plain);
    const second = await store.write({ ...content(7), progress: 'after the evaluation' }, plain);
    expect(second).not.toBe(first);
    expect((await store.read('last')).progress).toBe('after the evaluation');
    expect((await store.read('previous')).progress).toEqual({ note: 'kept', value: 0.1 + 0.2 });
    for (const copy of [10, 9]) await cp(first, `${first}.${copy}`, { recursive: true });
    expect(await listCheckpoints(store.runFolder)).toEqual([first, second, `${first}.9`, `${first}.10`]);
  });

  it('forgets the later course once a run went on from an earlier checkpoint', async () => {
    for (const step of [10, 20, 30]) await store.write(content(step), { ...plain, keep: 3 });
    await store.write(content(15), { ...plain, keep: 3 });
    expect(await names()).toEqual(['last', 'step-00000010', 'step-00000015']);
  });

  it('clears away what a kill left half written, and nothing else', async () => {
    await store.write(content(10), plain);
    const whole = (await store.read('last')).folder;
    await cp(whole, join(store.folder, '.partial-4242'), { recursive: true });
    await cp(whole, join(store.folder, 'step-00000020'), { recursive: true });
    await rm(join(store.folder, 'step-00000020', 'manifest.json'));
    await symlink('step-00000020', join(store.folder, '.last-4242'));
    await mkdir(join(store.folder, 'mine'));
    store = await CheckpointStore.open(folder);
    expect(await names()).toEqual(['last', 'mine', 'step-00000010']);
    expect((await store.read('last')).info.step).toBe(10);
  });

  it('keeps a checkpoint, and the run that it is of, where it cannot be looked at', async () => {
    await store.write(content(10), plain);
    const { folder: whole } = await store.read('last');
    const file = join(whole, 'manifest.json');
    await rm(file);
    await symlink(file, file); // to nowhere else: the system refuses it, and does not say that nothing is there
    for (const call of [
      () => CheckpointStore.open(folder),
      () => hasCheckpoint(folder),
      () => listCheckpoints(store.runFolder),
    ])
      await expect(call()).rejects.toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining(file) as string,
      });
    expect((await readdir(whole)).sort()).toEqual([
      'bank.safetensors',
      'manifest.json',
      'model.safetensors',
      'state.safetensors',
    ]);
    expect(await hasCheckpoint(join(folder, 'nowhere'))).toBe(false);
  });

  it('finds the last without its link, and replaces a copy that stands where a link should', async () => {
    for (const step of [10, 20]) await store.write(content(step), { ...plain, isBest: step === 10 });
    await rm(join(store.folder, 'last'));
    expect((await store.read('last')).info.step).toBe(20);
    await rm(`${folder}-copied`, { recursive: true, force: true });
    await cp(folder, `${folder}-copied`, { recursive: true, dereference: true });
    const copied = await CheckpointStore.open(`${folder}-copied`);
    for (const [which, step] of [
      ['last', 20],
      ['previous', 10],
      ['best', 10],
    ] as const)
      expect((await copied.read(which)).info.step).toBe(step);
    await copied.write(content(30), { ...plain, isBest: true });
    for (const which of ['last', 'best'] as const)
      expect(await readlink(join(copied.folder, which))).toBe('step-00000030');
    await rm(`${folder}-copied`, { recursive: true });
  });

  it('keeps the best of a copy that has no links, and its student is found', async () => {
    const best = { metric: 'top1', value: 0.5, step: 10 };
    for (const step of [10, 20, 30]) await store.write(content(step), { best, isBest: step === 10, keep: 2 });
    for (const link of ['last', 'best']) await rm(join(store.folder, link));
    expect((await store.read('best')).info.step).toBe(10);
    expect((await readStudent(folder)).info.step).toBe(10);
    await store.write(content(40), { best, isBest: false, keep: 1 });
    expect(await names()).toEqual(['last', 'step-00000010', 'step-00000040']);
    expect((await readStudent(folder)).info.step).toBe(10);
    await rm(join(store.folder, 'step-00000010'), { recursive: true });
    expect((await readStudent(folder)).info.step).toBe(40);
  });

  it('says so where there is none', async () => {
    await expect(store.read('last')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await store.write(content(1), plain);
    await expect(store.read('previous')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(store.read('best')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await expect(store.read(join(folder, 'nowhere'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  it('refuses to write where it cannot, and leaves the earlier one whole', async () => {
    await store.write(content(1), plain);
    await rm(store.folder, { recursive: true });
    await writeFile(store.folder, 'a file in the place of the folder');
    await expect(store.write(content(3), plain)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    await expect(CheckpointStore.open(folder)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  });
});

async function flipBit(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length - 1]! ^= 1;
  await writeFile(path, bytes);
}

describe('a damaged checkpoint', () => {
  const damages: [string, string, (path: string) => Promise<void>][] = [
    ['a state cut short', 'state.safetensors', async (path) => truncate(path, 100)],
    [
      'a model cut short by a byte',
      'model.safetensors',
      async (path) => truncate(path, (await readFile(path)).length - 1),
    ],
    ['a flipped bit', 'model.safetensors', flipBit],
    [
      'a flipped bit of the manifest',
      'manifest.json',
      async (path) =>
        writeFile(
          path,
          (await readFile(path, 'utf8')).replace(/(?<="sha256": ")./u, (digit) => (digit === '0' ? '1' : '0')),
        ),
    ],
    [
      'a flipped bit of a size in the manifest',
      'manifest.json',
      async (path) =>
        writeFile(
          path,
          (await readFile(path, 'utf8')).replace(/(?<="bytes": )./u, (digit) => (digit === '1' ? '3' : '1')),
        ),
    ],
    ['a missing bank', 'bank.safetensors', async (path) => rm(path)],
    [
      'the manifest of something else',
      'manifest.json',
      async (path) => writeFile(path, (await readFile(path, 'utf8')).replace('lgdistill-checkpoint', 'another')),
    ],
    ['an emptied manifest', 'manifest.json', async (path) => writeFile(path, '')],
    [
      'a manifest without marks',
      'manifest.json',
      async (path) =>
        writeFile(path, (await readFile(path, 'utf8')).replace(/(?<="model.safetensors": )\{[^}]*\}/u, 'null')),
    ],
    [
      'a manifest that lists no file',
      'manifest.json',
      async (path) => writeFile(path, '{"format": "lgdistill-checkpoint", "files": {}}'),
    ],
  ];
  it.each(damages)('is refused by the name of its file: %s', async (_, file, damage) => {
    await store.write(content(1), plain);
    const path = await store.write(content(2), plain);
    await damage(join(path, file));
    await expect(store.read('last')).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringContaining(file) as unknown,
    });
    expect((await store.read('previous')).info.step).toBe(1); // only because it was asked for
  });
});

describe('readStudent', () => {
  it('takes the file, the checkpoint or the run folder', async () => {
    const path = await store.write(content(4), plain);
    await store.write(content(5), { ...plain, isBest: true, keep: 3 });
    await store.write(content(6), { ...plain, keep: 3 });
    expect((await readStudent(join(path, 'model.safetensors'))).info.step).toBe(4);
    expect((await readStudent(join(store.folder, 'last'))).info.step).toBe(6);
    const { info, weights } = await readStudent(folder);
    expect(info).toEqual(content(5).info);
    expect(weights).toEqual(content(5).weights);
    expect(basename(await findStudentFile(folder))).toBe('model.safetensors');
  });

  it('refuses a student that is not what the manifest of its checkpoint says, by whatever path', async () => {
    const path = await store.write(content(4), { ...plain, isBest: true });
    const file = join(path, 'model.safetensors');
    await flipBit(file);
    for (const given of [
      folder,
      path,
      join(store.folder, 'last'),
      join(store.folder, 'best', 'model.safetensors'),
      file,
    ]) {
      await expect(readStudent(given)).rejects.toMatchObject({
        code: 'BAD_CHECKPOINT',
        message: expect.stringContaining(file) as unknown,
      });
    }
    await writeFile(join(path, 'manifest.json'), '');
    await expect(readStudent(path)).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' });
  });

  it('takes a student beside the manifest of something else', async () => {
    const path = await store.write(content(4), plain);
    await writeFile(join(path, 'manifest.json'), '{"name": "a web page", "files": 3}');
    expect((await readStudent(path)).info.step).toBe(4);
  });

  it('refuses other files', async () => {
    await expect(readStudent(join(folder, 'nothing'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    const path = await store.write(content(4), plain);
    await expect(readStudent(join(path, 'bank.safetensors'))).rejects.toMatchObject({ code: 'BAD_MODEL' });
    await expect(readCheckpoint(folder)).rejects.toMatchObject({ code: 'BAD_CHECKPOINT' });
  });
});
