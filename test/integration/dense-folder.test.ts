/** The folder that a segmentation head or a detector is trained into. */
import { copyFile, mkdir, readdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { RunConfig } from '../../lib/config/batch.js';
import { parseConfig } from '../../lib/config/config.js';
import { trainDetection } from '../../lib/dense/detection.js';
import { evaluateSegmentation, trainSegmentation } from '../../lib/dense/segmentation.js';
import { compareRuns } from '../../lib/report/compare.js';
import { writeReport } from '../../lib/report/report.js';
import { lockRunFolder, RunFolder } from '../../lib/runs/run-folder.js';
import { resumeConfig } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { oneStepTrainings, sceneClasses } from '../fixtures/scenes.js';

const folder = temporaryFolder();
const { student, scenes, masked, boxed } = await oneStepTrainings(folder);

async function told<Event>(events: AsyncIterable<Event>, into: Event[] = []): Promise<Event[]> {
  for await (const event of events) into.push(event);
  return into;
}

/** The files of a folder with their contents, and each of its folders. */
async function contents(path: string): Promise<Record<string, string>> {
  const entries = (await readdir(path, { withFileTypes: true })).sort((a, b) => a.name.localeCompare(b.name));
  return Object.fromEntries(
    await Promise.all(
      entries.map(
        async (entry) =>
          [entry.name, entry.isDirectory() ? '' : await readFile(join(path, entry.name), 'base64')] as const,
      ),
    ),
  );
}

describe('the folder', () => {
  it('is refused while another process writes to it, and left as it is', async () => {
    const output = join(folder, 'live');
    await mkdir(output);
    await writeFile(join(output, 'config.json'), '{"method":"lgd"}');
    await writeFile(join(output, 'metrics.jsonl'), '{"type":"step","step":1}\n');
    const unlock = await lockRunFolder(output);
    const before = await contents(output);
    await expect(trainSegmentation({ student, output, config: masked() }).next()).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
      message: expect.stringContaining('is writing to this run folder') as unknown,
    });
    expect(await contents(output)).toEqual(before);
    await unlock();

    const fresh = join(folder, 'two');
    const first = trainSegmentation({ student, output: fresh, config: masked() });
    await first.next();
    await expect(trainDetection({ student, output: fresh, config: boxed() }).next()).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
    });
    await first.return();
    expect((await readdir(folder)).includes('two')).toBe(false); // nothing had come into it
  });

  it('loses what an earlier run left, and nothing else', async () => {
    const output = join(folder, 'distilled');
    for (const name of ['resnet18', 'mobilenet_v2'])
      await mkdir(join(output, name, 'checkpoints'), { recursive: true });
    await mkdir(join(output, 'checkpoints'));
    await writeFile(join(output, 'config.json'), '{"method":"lgd","student":{"name":"resnet18,mobilenet_v2"}}');
    for (const name of ['log.txt', 'report.html', 'notes.md']) await writeFile(join(output, name), '');
    await told(trainSegmentation({ student, output, config: masked() }));
    expect((await readdir(output)).sort()).toEqual([
      'config.json',
      'last.safetensors',
      'metrics.jsonl',
      'model.safetensors',
      'notes.md',
    ]);

    // and the other way round; a student's file of that name is nobody's run
    await copyFile(student, join(output, 'last.safetensors'));
    const run = await RunFolder.open(
      output,
      parseConfig({ overwrite: true, train: { batchSize: 2, learningRate: 1 } }) as RunConfig,
      { resume: false },
    );
    await run.close();
    expect((await readdir(output)).sort()).toEqual([
      'config.json',
      'last.safetensors',
      'log.txt',
      'metrics.jsonl',
      'notes.md',
    ]);
  });

  it('keeps the earlier network until there is a batch to train another on', async () => {
    const output = join(folder, 'kept');
    await told(trainDetection({ student, output, config: boxed() }));
    const before = await contents(output);
    const broken = join(folder, 'broken');
    await mkdir(broken);
    for (const name of ['0.png', '1.png'])
      await writeFile(join(broken, name), (await readFile(join(scenes, 'images', name))).subarray(0, 60));
    await expect(
      told(trainDetection({ student, output, config: { ...boxed(), dense: { ...boxed().dense, data: broken } } })),
    ).rejects.toMatchObject({ code: 'BAD_IMAGE' });
    expect(await contents(output)).toEqual(before);

    const stop = new AbortController();
    const stopped = trainDetection({ student, output, config: boxed(), signal: stop.signal });
    await stopped.next();
    stop.abort();
    await expect(stopped.next()).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await contents(output)).toEqual(before);
  });

  it('is not emptied of the student', async () => {
    const output = join(folder, 'own');
    await mkdir(join(output, 'checkpoints', 'best'), { recursive: true });
    await copyFile(student, join(output, 'checkpoints', 'best', 'model.safetensors'));
    await expect(trainSegmentation({ student: output, output, config: masked() }).next()).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      option: 'output',
      message: expect.stringContaining('the student') as unknown,
    });
    expect(await readdir(join(output, 'checkpoints', 'best'))).toEqual(['model.safetensors']);
  });

  it('says what was trained on which student, and is no run of a distillation', async () => {
    const output = join(folder, 'task');
    await told(trainSegmentation({ student, output, config: { ...masked(), names: sceneClasses } }));
    const config = JSON.parse(await readFile(join(output, 'config.json'), 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({
      task: 'segmentation',
      student: {
        path: await realpath(student),
        sha256: expect.stringMatching(/^[0-9a-f]{64}$/u) as unknown,
        architecture: 'mobilenet_v2',
        widthMultiplier: 0.35,
      },
      output,
      names: sceneClasses,
      seed: 0,
      dense: { data: scenes, head: 'lraspp', resolution: 64 },
    });
    for (const name of ['method', 'loss', 'data', 'evaluate']) expect(config).not.toHaveProperty(name);

    const run = join(folder, 'run');
    await mkdir(run);
    await writeFile(join(run, 'config.json'), '{"method":"lgd"}');
    const { runs, remarks } = await compareRuns([run, output]);
    expect(runs.map(({ path }) => path)).toEqual([run]);
    expect(remarks).toContain(
      `passed over, as it is no run folder (a segmentation network or a detector was trained there): ${output}`,
    );
    await expect(compareRuns([output, join(output, 'model.safetensors')])).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining(`detectors were trained into ${output}.`) as unknown,
    });
    await expect(writeReport({ runs: [output], models: false })).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      mend: expect.stringContaining('segment evaluate') as unknown,
    });
    expect((await evaluateSegmentation({ model: output, config: masked() })).images).toBe(2);
    await expect(resumeConfig(output)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      mend: 'Score that with lgdistill segment evaluate',
    });
    expect((await readdir(output)).includes('report.html')).toBe(false);
  });
});
