import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { create } from 'tar';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { PackFile } from '../../lib/data/pack/reader.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes } from '../fixtures/tiny.js';
import { lgdistill } from './program.js';

// of a bench, which measures with all cores there are
vi.stubEnv('UV_THREADPOOL_SIZE', String(availableParallelism()));
afterAll(() => void vi.unstubAllEnvs());

const folder = temporaryFolder();
const data = join(folder, 'data');
const file = join(folder, 'raw.pack');

beforeAll(async () => {
  await drawShapes(data, { count: 5 });
  await writeFile(join(data, 'circle', 'broken.png'), 'no picture');
});

it('packs, tells what it refused, and refuses to write over a file', async () => {
  const { code, stdout } = await lgdistill(['pack', data, '--output', file, '--as', 'raw', '--short-side', '40']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/raw\.pack: 20 images, .* images\/s\n1 refused:\n {2}circle\/broken\.png: .*unsupported/u);
  const again = await lgdistill(['pack', data, '--output', file, '--as', 'raw', '--short-side', '40']);
  expect(again).toMatchObject({ code: 2, stderr: expect.stringContaining('--overwrite') as string });
  const json = await lgdistill([
    'pack',
    data,
    '--output',
    file,
    '--as',
    'original',
    '--labels',
    'none',
    '--overwrite',
    '--json',
  ]);
  expect(JSON.parse(json.stdout)).toMatchObject({
    file,
    images: 20,
    resumed: 0,
    refused: [{ id: 'circle/broken.png' }],
  });
  expect((await PackFile.open(file)).index.labels).toBeUndefined();
});

it('verifies, and names what is damaged', async () => {
  const whole = await lgdistill(['pack', '--verify', file]);
  expect(whole).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/images +20 of .*\nkept as +the files as they were[^]*damaged +none/u) as string,
  });
  const { index } = await PackFile.open(file);
  const bytes = await readFile(file);
  bytes[index.offsets[6]!]! ^= 255;
  await writeFile(file, bytes);
  const damaged = await lgdistill(['pack', '--verify', file]);
  expect(damaged.code).toBe(1);
  expect(damaged.stdout).toContain(`\ndamaged:\n  ${index.ids[6]}: `);
  expect(JSON.parse((await lgdistill(['pack', '--verify', file, '--json'])).stdout)).toMatchObject({
    images: 20,
    damaged: [{ id: index.ids[6] }],
  });
});

it('says what is missing or wrong on its command line', async () => {
  for (const [args, words] of [
    [['pack'], 'nothing to pack'],
    [['pack', data], '--output'],
    [['pack', data, '--output', file, '--as', 'tiff'], 'original, jpeg, raw'],
    [['pack', data, '--output', file, '--short-side', 'x'], 'whole number'],
    [['pack', data, '--output', join(folder, 'x.pack'), '--quality', '300', '--as', 'jpeg'], '1 to 100'],
    [['pack', data, '--output', join(folder, 'x.pack'), '--quality', '50'], 'only what is kept as JPEG'],
    [['pack', join(folder, 'nowhere'), '--output', folder, '--overwrite'], 'output: is a folder'], // told first
    [['pack', data, '--output', file, '--verify', file], 'nothing is packed'],
    [['bench', 'data'], 'nothing to measure'],
  ] as const)
    expect(await lgdistill(args), args.join(' ')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(words) as string,
    });
  expect(await lgdistill(['pack', '--verify', join(folder, 'none.pack')])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('FILE_NOT_FOUND') as string,
  });
});

it('measures sources', async () => {
  const raw = join(folder, 'bench.pack');
  await lgdistill(['pack', data, '--output', raw, '--as', 'raw', '--short-side', '40']);
  const { stdout, code } = await lgdistill([
    'bench',
    'data',
    data,
    raw,
    '--seconds',
    '0.1',
    '--resolution',
    '32',
    '--max-broken-share',
    '0.1',
    '--json',
  ]);
  expect(code).toBe(0);
  const { rows } = JSON.parse(stdout) as {
    rows: {
      source: string;
      from: string;
      cores: number;
      imagesPerSecond: number;
      decodeMilliseconds: number;
      augmentMilliseconds: number;
    }[];
  };
  expect([...new Set(rows.map(({ source, from }) => `${source} ${from}`))]).toEqual([`${data} files`, `${raw} raw`]);
  for (const row of rows) expect(Math.min(row.imagesPerSecond, row.augmentMilliseconds)).toBeGreaterThan(0);
  expect(rows.at(-1)!.decodeMilliseconds).toBeLessThan(rows[0]!.decodeMilliseconds);
});

it('prints what was measured where another source cannot be', async () => {
  const parquet = join(folder, 'rows.parquet');
  const image = await readFile(join(data, 'circle', '0.png'));
  await writeFile(
    parquet,
    Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'png', data: [image], type: 'BYTE_ARRAY' }] })),
  );
  const args = ['bench', 'data', data, parquet, '--seconds', '0.05', '--resolution', '32', '--max-broken-share', '0.1'];
  const { code, stdout, stderr } = await lgdistill(args);
  expect(code).toBe(1);
  expect(stdout).toContain(`${data} `);
  expect(stderr).toMatch(
    /rows\.parquet can be read in their order only[^]*-> Pack them \(lgdistill pack\), and measure the pack/u,
  );
  expect((await lgdistill(['bench', 'data', parquet])).stdout).toBe('');
});

it('says how many images of tar shards were left out', async () => {
  await writeFile(join(data, 'circle', '0.seg.png'), await readFile(join(data, 'circle', '0.png')));
  const tar = join(folder, 'shapes.tar');
  await create({ file: tar, cwd: data, portable: true }, ['circle/0.png', 'circle/0.seg.png', 'circle/1.png']);
  const args = ['pack', tar, '--output', join(folder, 'shapes.pack')];
  const remark = `1 image in ${tar} is left out, such as shapes.tar/circle/0.seg.png: it stands beside the image of its sample`;
  expect((await lgdistill(args)).stdout).toContain(`shapes.pack: 2 images`);
  const { documents } = await lgdistill([...args, '--overwrite', '--json']);
  expect(documents()[0]).toMatchObject({ images: 2, remarks: [remark] });
});
