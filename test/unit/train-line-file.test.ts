import { appendFile, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isPartOf, LineFile, linePaths } from '../../lib/files/line-file.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lgd-lines-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const name = 'metrics.jsonl';
/** Every line of every part, in order. */
async function linesOf(): Promise<string[]> {
  const texts = await Promise.all(
    (await linePaths(folder, name)).map((path) => readFile(path, 'utf8').catch(() => '')),
  );
  return texts.join('').split('\n').slice(0, -1);
}
const numbered = (count: number) => Array.from({ length: count }, (_, i) => `line ${i + 1}`);

/** Twelve lines in parts of five at most. */
async function twelve(mostBytes = 40): Promise<LineFile> {
  const file = await LineFile.open(folder, name, mostBytes);
  for (const line of numbered(12)) await file.append(line);
  return file;
}

describe('LineFile', () => {
  it('goes on in a new part past its size, and the parts are the whole in order', async () => {
    await (await twelve()).close();
    expect((await readdir(folder)).sort()).toEqual(['metrics-000001.jsonl', 'metrics-000002.jsonl', name]);
    for (const part of await linePaths(folder, name)) expect((await readFile(part)).length).toBeLessThanOrEqual(40);
    expect(await linesOf()).toEqual(numbered(12));
    const again = await LineFile.open(folder, name, 40); // counts what is there already
    for (const line of numbered(5)) await again.append(line);
    await again.close();
    expect(await linesOf()).toEqual([...numbered(12), ...numbered(5)]);
    expect(await readdir(folder)).toHaveLength(4);
  });

  it('keeps one file without a limit, and gives a line beyond it a part of its own', async () => {
    await (await twelve(0)).close();
    expect(await readdir(folder)).toEqual([name]);
    await rm(join(folder, name));
    const file = await LineFile.open(folder, name, 10);
    for (const line of ['a', 'a very long line', 'b']) await file.append(line);
    await file.close();
    expect(await linesOf()).toEqual(['a', 'a very long line', 'b']);
    expect(await readdir(folder)).toHaveLength(3);
  });

  it('goes on in a new file where the one it appends to was removed or replaced, and where it was moved with its folder', async () => {
    const path = join(folder, name);
    const file = await LineFile.open(folder, name, 24);
    const lines = async () => (await readFile(path, 'utf8')).split('\n');
    await file.append('line 1');
    await rm(path);
    await file.append('line 2');
    expect(await lines()).toEqual(['line 2', '']);
    await writeFile(`${path}.edited`, 'line 2, edited'); // as an editor saves it
    await rename(`${path}.edited`, path);
    await file.append('line 3');
    expect(await lines()).toEqual(['line 2, edited', 'line 3', '']);
    await rm(path);
    await file.append('line 4'); // which would begin a part of the file that is gone
    expect(await lines()).toEqual(['line 4', '']);
    await rename(folder, `${folder}-moved`);
    await file.append('line 5');
    await rename(`${folder}-moved`, folder);
    await file.append('line 6');
    await file.close();
    expect(await linesOf()).toEqual(['line 4', 'line 5', 'line 6']);
  });

  it.each([12, 11, 10, 6, 5, 4, 1, 0])(
    'cuts after line %i, whatever part it stands in, and goes on from there',
    async (kept) => {
      const file = await twelve();
      await file.cut((line) => Number(line.slice(5)) <= kept);
      expect(await linesOf()).toEqual(numbered(kept));
      await file.append('more');
      for (const line of numbered(12)) await file.append(line);
      await file.close();
      expect(await linesOf()).toEqual([...numbered(kept), 'more', ...numbered(12)]);
      for (const part of await linePaths(folder, name)) expect((await readFile(part)).length).toBeLessThanOrEqual(40);
    },
  );

  it('cuts what a kill left between two parts', async () => {
    await (await twelve()).close();
    await rename(join(folder, name), join(folder, 'metrics-000003.jsonl')); // the new part was not made yet
    expect(await linesOf()).toEqual(numbered(12));
    const file = await LineFile.open(folder, name, 40);
    await file.cut(() => true);
    expect(await linesOf()).toEqual(numbered(12));
    await file.append('line 13');
    await file.close();
    expect(await linesOf()).toEqual(numbered(13));
  });

  it('ends a line that a kill tore, so that the next stands alone', async () => {
    const first = await LineFile.open(folder, name, 0);
    await first.append('whole');
    await first.close();
    await appendFile(join(folder, name), 'tor');
    const second = await LineFile.open(folder, name, 0);
    await second.append('next');
    await second.close();
    expect(await linesOf()).toEqual(['whole', 'tor', 'next']);
  });

  it('knows its parts from other files', async () => {
    for (const other of [
      'metrics-1.jsonl',
      'metrics-000001.txt',
      'my-metrics.jsonl',
      'metrics-old.jsonl',
      'metrics-000001.jsonl.bak',
    ]) {
      await writeFile(join(folder, other), 'other\n');
      expect(isPartOf(name, other), other).toBe(false);
    }
    await (await twelve()).close();
    expect(await linesOf()).toEqual(numbered(12));
    expect(isPartOf(name, 'metrics-1000000.jsonl')).toBe(true);
    await expect(linePaths(join(folder, 'nowhere'), name)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('says where nothing can be written', async () => {
    await symlink('/dev/full', join(folder, name));
    const file = await LineFile.open(folder, name, 0);
    await expect(file.append('x')).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('the disk is full') as unknown,
    });
    // a device that syncs nothing
    await expect(file.sync()).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining(name) as unknown,
    });
    await file.close();
    await expect(file.append('x')).rejects.toMatchObject({ code: 'DISPOSED' });
    await expect(LineFile.open(join(folder, 'nowhere'), name, 0)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  });
});
