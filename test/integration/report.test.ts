import { access, appendFile, cp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { writeReport } from '../../lib/index.js';
import type { BankMap } from '../../lib/report/map.js';
import type { Gallery } from '../../lib/report/anchors.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { hostileNames, makeReportRuns, type ReportRuns } from './report-fixture.js';
import { shapeNames, tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let runs: ReportRuns;
beforeAll(async () => {
  runs = await makeReportRuns(folder);
});

interface Data {
  charts: { charts: { id: string }[]; runs: { name: string; steps: { x: { step: number[] } } }[] };
  maps: (BankMap | null)[];
  galleries: (Gallery | null)[];
}

async function dataOf(file: string): Promise<{ text: string; data: Data }> {
  const text = await readFile(file, 'utf8');
  return {
    text,
    data: JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/su.exec(text)![1]!) as Data,
  };
}

describe('a report on one run', () => {
  it('holds every section, escaped, in the run folder', async () => {
    const {
      file,
      bytes,
      imageBytes,
      missing,
      runs: summaries,
    } = await writeReport({ runs: [runs.hostile], device: 'cpu' });
    expect(file).toBe(join(runs.hostile, 'report.html'));
    expect(missing).toEqual([]);
    expect((await stat(file)).size).toBe(bytes);
    expect(summaries[0]).toMatchObject({
      outcome: 'done',
      steps: 9,
      images: 24,
      categories: 4,
      student: 'mobilenet_v2 x 0.35',
      teacher: 'tiny-clip',
      method: 'lgd',
      badLines: 0,
    });
    const { text, data } = await dataOf(file);
    for (const name of hostileNames) expect(text).not.toContain(name);
    expect(text).not.toContain('<b> "run"');
    expect(text).toContain('&lt;script&gt;alert(1)&lt;/script&gt;'); // among the worst classes
    expect(text).not.toMatch(/(src|href)="(?!#|data:)/u);
    expect(data.charts.charts.map(({ id }) => id)).toEqual(
      expect.arrayContaining(['loss', 'kl', 'top1', 'own', 'coverage', 'speed']),
    );
    expect(data.charts.runs[0]!.steps.x.step).toEqual(Array.from({ length: 9 }, (_, i) => i + 1));

    const [map, gallery] = [data.maps[0]!, data.galleries[0]!];
    expect(map.names).toEqual(hostileNames);
    expect(map.seen).toBe(map.visual.x.filter((x) => x !== null).length);
    expect(gallery.images).toBe(24);
    expect(gallery.categories.length).toBe(map.seen);
    expect(gallery.categories.reduce((sum, { hits }) => sum + hits, 0)).toBe(24);
    expect(imageBytes).toBe(gallery.thumbnails.reduce((sum, uri) => sum + uri.length, 0));
    for (const { nearest } of gallery.categories) {
      expect(nearest.map(({ cosine }) => cosine)).toEqual(nearest.map(({ cosine }) => cosine).sort((a, b) => b - a));
      for (const { image } of nearest) expect(gallery.thumbnails[image]).toMatch(/^data:image\/webp;base64,/u);
    }
  });

  it('says what cannot be shown any more, and shows the rest', async () => {
    const copy = join(folder, 'moved');
    await cp(runs.hostile, copy, { recursive: true, verbatimSymlinks: true });
    await appendFile(join(copy, 'metrics.jsonl'), '{"type":"step","st');
    const file = join(copy, 'config.json');
    const config = JSON.parse(await readFile(file, 'utf8')) as ConfigInput;
    const moved = { ...config, teacher: join(folder, 'no-teacher'), data: { train: join(folder, 'nowhere') } };
    await writeFile(file, JSON.stringify(moved));
    const gone = await writeReport({ runs: [copy], device: 'cpu' });
    expect(gone.runs[0]!.badLines).toBe(1);
    expect(gone.missing).toMatchObject([{ section: 'gallery', reason: expect.stringContaining('nowhere') as unknown }]);
    expect((await dataOf(gone.file)).text).toContain('Without the teacher: ');
    await rm(join(copy, 'checkpoints'), { recursive: true });
    const bare = await writeReport({ runs: [copy], device: 'cpu' });
    expect(bare.missing.map(({ section }) => section)).toEqual(['map', 'gallery', 'confusion']);
    expect((await dataOf(bare.file)).data.charts.runs[0]!.steps.x.step).toHaveLength(9);
  });

  it('refuses what is asked for and is not there, before anything is computed', async () => {
    const nowhere = join(folder, 'nowhere');
    const [one] = [runs.plain];
    const refused = (options: object) =>
      expect(writeReport({ runs: [one], device: 'cpu', output: join(folder, 'refused', 'r.html'), ...options }))
        .rejects;
    await refused({ images: nowhere }).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused({ teacher: nowhere }).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused({ evaluate: nowhere }).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused({ evaluateNames: nowhere, evaluate: runs.evaluate }).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused({ evaluateNames: nowhere, runs: [one, runs.hostile] }).toMatchObject({ code: 'FILE_NOT_FOUND' });
    await refused({ evaluateNames: shapeNames }).toMatchObject({
      code: 'BAD_OPTION',
      option: 'evaluateNames',
    });
    await refused({ models: false, images: runs.images }).toMatchObject({ code: 'BAD_OPTION', option: 'images' });
    await refused({ images: nowhere, output: join(one, 'config.json', 'r.html') }).toMatchObject({
      code: 'NOT_WRITABLE',
    });
    await expect(access(join(folder, 'refused'))).rejects.toMatchObject({ code: 'ENOENT' });
    for (const [place, code] of [
      [join(one, 'config.json'), 'NOT_WRITABLE'],
      ['', 'BAD_OPTION'],
    ] as const)
      expect(
        await lgdistill([
          'report',
          one,
          '--no-models',
          '--output',
          join(folder, 'refused.html'),
          '--tensorboard',
          place,
        ]),
      ).toMatchObject({ stderr: expect.stringContaining(`error ${code}`) as string });
    await expect(access(join(folder, 'refused.html'))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('makes the folders on its way', async () => {
    const output = join(folder, 'new', 'deep', 'report.html');
    await writeReport({ runs: [runs.plain], models: false, output });
    await access(output);
  });

  it('keeps within the bytes and images it may take', async () => {
    const output = join(folder, 'small.html');
    const { imageBytes } = await writeReport({
      runs: [runs.plain],
      output,
      device: 'cpu',
      mostImages: 10,
      mostImageBytes: 1,
    });
    const [gallery] = (await dataOf(output)).data.galleries;
    expect(gallery).toMatchObject({ images: 10, ofImages: 24 });
    expect(gallery!.categories).toHaveLength(1); // the first category alone passes the limit
    expect(imageBytes).toBeGreaterThan(1);
  });
});

describe('lgdistill report', () => {
  it('overlays runs, and prints what it collected as JSON', async () => {
    const output = join(folder, 'both.html');
    const { code, documents, stderr } = await lgdistill([
      'report',
      runs.hostile,
      runs.plain,
      '--output',
      output,
      '--device',
      'cpu',
      '--json',
    ]);
    expect([code, stderr.match(/^error.*$/mu)]).toEqual([0, null]);
    const [result] = documents() as [
      { file: string; runs: { name: string; steps: number }[]; missing: { run: string; section: string }[] },
    ];
    expect(result).toMatchObject({
      file: output,
      runs: [{ steps: 9 }, { name: 'plain', steps: 6 }],
      missing: [{ run: 'plain', section: 'confusion' }],
    });
    expect(stderr).toContain('plain, no confusion: evaluate.data: ');
    const { text, data } = await dataOf(output);
    expect(text).toContain('<code>loss.alpha</code>');
    expect(data.maps[1]!.names).toEqual(shapeNames);
  });

  it('evaluates a run on some of its names, as evaluate does', async () => {
    const [two, output] = [join(folder, 'two'), join(folder, 'two.html')];
    for (const name of shapeNames.slice(0, 2))
      await cp(join(runs.evaluate, name), join(two, name), { recursive: true });
    const report = async (...names: string[]) =>
      (
        await lgdistill([
          'report',
          runs.plain,
          '--device',
          'cpu',
          '--evaluate',
          two,
          ...names,
          '--output',
          output,
          '--json',
        ])
      ).documents()[0];
    expect(await report()).toMatchObject({
      missing: [{ section: 'confusion', reason: expect.stringContaining('evaluate.names') as unknown }],
    });
    expect(await report('--evaluate.names', two)).toMatchObject({ missing: [] });
    expect((await dataOf(output)).text).toContain('on 6 evaluation images of 2 classes');
  });

  it('needs no model when told so, and refuses what is no run', async () => {
    const output = join(folder, 'plain.html');
    const { code, stdout } = await lgdistill(['report', runs.plain, '--no-models', '--output', output]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^report: .*plain\.html \([\d.]+ KiB\)$/mu);
    expect((await dataOf(output)).data.maps[0]).not.toBeNull();
    const wrong = await lgdistill(['report', runs.images]);
    expect([wrong.code, wrong.stderr.split('\n')[0]]).toEqual([1, 'error FILE_NOT_FOUND']);
    expect(wrong.stderr).toContain('is not a run folder');
    expect((await lgdistill(['report'])).code).toBe(2);
    expect((await lgdistill(['report', runs.plain, '--no-models', '--output', folder])).stderr).toContain(
      'is a folder',
    );
  });

  it('replaces an earlier report, and no other file', async () => {
    const [output, precious] = [join(folder, 'again.html'), join(folder, 'precious.html')];
    for (let i = 0; i < 2; i++)
      expect((await lgdistill(['report', runs.plain, '--no-models', '--output', output])).code).toBe(0);
    await writeFile(precious, '<!doctype html><title>by hand</title>');
    const { code, stderr } = await lgdistill(['report', runs.plain, '--no-models', '--output', precious]);
    expect([code, stderr.split('\n')[0]]).toEqual([2, 'error BAD_OPTION']);
    expect(stderr).toContain('there is a file already, which is not a report');
    expect(await readFile(precious, 'utf8')).toContain('by hand');
  });

  it('is written at the end of training, unless it is not wanted', async () => {
    const task = (output: string) => [
      'distill',
      '--device',
      'cpu',
      '--teacher',
      tinyClip,
      '--offline',
      '--names',
      JSON.stringify(shapeNames),
      '--templates',
      'none',
      '--width-multiplier',
      '0.35',
      '--batch-size',
      '8',
      '--epochs',
      '1',
      '--margin',
      '1',
      '--data',
      runs.images,
      '--output',
      output,
    ];
    const [wanted, unwanted] = [join(folder, 'wanted'), join(folder, 'unwanted')];
    expect((await lgdistill(task(wanted))).stdout).toContain(`report: ${join(wanted, 'report.html')}`);
    expect((await dataOf(join(wanted, 'report.html'))).data.maps[0]!.names).toEqual(shapeNames);
    expect((await lgdistill(['report', wanted, '--device', 'cpu'])).code).toBe(0);
    const resumed = await lgdistill(['resume', wanted, '--offline']); // of a run that is finished
    expect([resumed.code, resumed.stdout]).toEqual([
      0,
      expect.stringContaining(`report: ${join(wanted, 'report.html')}, as it was`),
    ]);
    expect((await dataOf(join(wanted, 'report.html'))).data.galleries[0]).not.toBeNull();
    expect((await lgdistill([...task(unwanted), '--no-report'])).code).toBe(0);
    await expect(stat(join(unwanted, 'report.html'))).rejects.toThrow();
  });
});
