/** What is written to a disk that goes away in the middle: the error tells of what failed, not of how it was left. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import { packImages } from '../../lib/data/pack/pack.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { readListed } from '../../lib/files/manifest.js';
import { writeSafetensors } from '../../lib/files/safetensors.js';
import { LineFile } from '../../lib/files/line-file.js';
import { endedBy } from '../../lib/lifetime.js';
import { clearGroup } from '../../lib/runs/group-folder.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { losableDisk } from '../fixtures/lost-disk.js';
import { drawShapes, madeUpTeacher, plainPicture, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const mount = join(folder, 'mount');
const disk = losableDisk(mount);
mkdirSync(mount);
beforeEach(disk.restore);

let config: ReturnType<typeof smallConfig>;
beforeAll(async () => {
  const data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  const { teacher, bank } = await madeUpTeacher(join(folder, 'made-up'));
  config = { ...smallConfig(data, join(mount, 'run'), { teacher, bank }), names: undefined };
});

test('a run ends with what it could not write, and goes on when the disk is back', async () => {
  await using prepared = await prepareRun(config);
  const events = async () => {
    for await (const { type } of prepared.run()) if (type === 'step') disk.lose();
  };
  await expect(events()).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringMatching(/run\/(?:metrics\.jsonl|log\.txt|checkpoints).*: the mount is gone/u) as unknown,
  });
  disk.restore();
  const { events: after } = await train(await resumeConfig(join(mount, 'run')), { resume: 'last' });
  expect(after.at(-1)).toMatchObject({ type: 'done' });
});

test('a pack ends with what it could not write', async () => {
  const picture = await plainPicture('red');
  const images = imagesFromBuffers(Array.from({ length: 4 }, (_, i) => ({ id: `${i}.png`, bytes: picture })));
  const read = async (place: number) => {
    if (place === 2) disk.lose();
    return images.read(place);
  };
  const output = join(mount, 'images.lgdpack');
  await expect(packImages({ ...images, read }, { output, syncSeconds: 0 })).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringMatching(/images\.lgdpack: the mount is gone/u) as unknown,
  });
});

test('the folders of several students stay locked to nobody, wherever the disk went away', async () => {
  const group = join(mount, 'group');
  const names = ['resnet18', 'resnet50'];
  let failed = 0;
  for (let calls = 0; calls < 60; calls++) {
    for (const name of names) mkdirSync(join(group, name), { recursive: true });
    writeFileSync(join(group, 'config.json'), JSON.stringify({ student: { name: names.join(',') } }));
    disk.lose(calls);
    await clearGroup(group).catch(() => failed++);
    disk.restore();
    await clearGroup(group);
  }
  expect(failed).toBeGreaterThan(10);
});

test('a file of lines tells so when it is closed', async () => {
  const file = await LineFile.open(mount, 'lines.txt', 0);
  await file.append('first');
  disk.lose();
  await expect(file.close()).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
});

test('a file that is read tells of what could not be read, however far it came', async () => {
  const file = join(mount, 'bank.safetensors');
  await writeSafetensors(file, [['value', { shape: [2], data: Float32Array.of(1, 2) }]], {});
  const read = () => readListed(file);
  let calls = 0;
  for (; calls < 50; calls++) {
    disk.lose(calls);
    const error = await read().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    if (error === undefined) break;
    expect(error, `${calls}`).toMatchObject({ code: expect.stringMatching(/^BAD_(?:FILE|CHECKPOINT)$/u) as unknown });
  }
  expect(calls).toBeGreaterThan(5);
  expect(calls).toBeLessThan(50);
});

test('the end that fails after its work is told of', async () => {
  const end = () => Promise.reject(new Error('the end'));
  await expect(endedBy(end, () => Promise.resolve())).rejects.toThrow('the end');
  await expect(endedBy(end, () => Promise.reject(new Error('the work')))).rejects.toThrow('the work');
});
