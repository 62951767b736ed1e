/** Packs whose writing is interrupted, or fails. */
import { mkdir, readFile, readdir, readlink, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { openImages } from '../../lib/data/open-images.js';
import { Journal, readJournal } from '../../lib/data/pack/journal.js';
import type { PackOptions } from '../../lib/data/pack/pack.js';
import { PackFile } from '../../lib/data/pack/reader.js';
import { checkPackPlace, PackWriter } from '../../lib/data/pack/writer.js';
import { sampleSource } from '../../lib/data/sources.js';
import { syncFile } from '../../lib/files/sync.js';
import { Packs } from '../fixtures/packs.js';

vi.mock('../../lib/files/sync.js', { spy: true });

const addon = loadAddon();
const packs = new Packs();
const { folder, output, pack } = packs;

describe('an interruption', () => {
  /** Stops after some images, as Ctrl-C does. */
  async function stopAfter(images: number, more: Partial<PackOptions> & { output: string }): Promise<void> {
    const controller = new AbortController();
    const { add } = PackWriter.prototype;
    let added = 0;
    const spy = vi.spyOn(PackWriter.prototype, 'add').mockImplementation(async function (this: PackWriter, ...image) {
      await add.apply(this, image);
      if (++added === images) controller.abort();
    });
    await expect(pack({ ...more, signal: controller.signal })).rejects.toMatchObject({ code: 'ABORTED' });
    spy.mockRestore();
  }

  it('leaves no pack; the same call goes on and writes the same file', async () => {
    for (const as of ['original', 'jpeg', 'raw'] as const) {
      const whole = await pack({ as });
      const path = output();
      await stopAfter(6, { output: path, as });
      expect((await readdir(folder)).filter((name) => join(folder, name).startsWith(path)).sort()).toEqual(
        [`${path}.journal`, `${path}.part`].map((name) => name.slice(folder.length + 1)),
      );
      await expect(openImages(path)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
      await expect(PackFile.open(`${path}.part`)).rejects.toMatchObject({ code: 'BAD_FILE' });
      // As after a power cut: more bytes than the journal tells of, and half a line.
      await writeFile(`${path}.part`, 'not recorded', { flag: 'a' });
      await writeFile(`${path}.journal`, '[7,123', { flag: 'a' });
      const { resumed } = await pack({ output: path, as });
      expect(resumed).toBeGreaterThan(0);
      expect((await readFile(path)).equals(await readFile(whole.file)), as).toBe(true);
      expect((await readdir(folder)).filter((name) => /part|journal|lock/u.test(name))).toEqual([]);
      const task = JSON.stringify({ format: 'lgdistill-pack-journal', kind: as });
      await writeFile(`${path}.journal`, `${task}\n`); // of a writer that was killed when the pack had its name
      await expect(pack({ output: path, as })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'output' });
      expect((await readdir(folder)).filter((name) => /journal/u.test(name))).toEqual([]);
    }
  });

  it('is not gone on with by another task, nor where the bytes are not those the journal tells of', async () => {
    const path = output();
    await stopAfter(6, { output: path });
    await expect(pack({ output: path, as: 'raw' })).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'output' });
    await expect(pack({ output: path }, sampleSource(packs.source, 9))).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    const journal = await readFile(`${path}.journal`, 'utf8');
    const part = await readFile(`${path}.part`);
    const damaged = { code: 'BAD_FILE', mend: expect.stringContaining('--overwrite') as string };
    await truncate(`${path}.part`, 100);
    await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    await writeFile(`${path}.part`, part);
    // its place, the width, the checksum
    for (const another of [
      journal.replace('\n[0,', '\n[5,'),
      journal.replace(/\n\[(\d+,\d+,\d+,\d+,\d)/u, '\n[$11'),
      journal.replace(/ \d/u, ' x'),
    ]) {
      await writeFile(`${path}.journal`, another);
      expect(another).not.toBe(journal);
      await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    }
    await writeFile(`${path}.journal`, journal);
    // the header, the last image that the journal tells of
    for (const at of [0, Number(/,(\d+).*\n$/u.exec(journal)![1])]) {
      await writeFile(
        `${path}.part`,
        part.map((byte, i) => (i === at ? byte ^ 1 : byte)),
      );
      await expect(pack({ output: path })).rejects.toMatchObject(damaged);
    }
    expect((await pack({ output: path, as: 'raw', overwrite: true })).resumed).toBe(0);
    await expect(pack({ output: path })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'output' });
    expect((await pack({ output: path, overwrite: true })).images).toBe(12);
  });

  it('does not take a whole pack that has the name of its part for one', async () => {
    const path = output();
    await pack({ output: `${path}.part` });
    const before = await readFile(`${path}.part`);
    const refused = { code: 'BAD_OPTION', option: 'output', found: `${path}.part` };
    for (const overwrite of [false, true]) {
      await expect(pack({ output: path, overwrite })).rejects.toMatchObject(refused);
      await expect(checkPackPlace(path, overwrite)).rejects.toMatchObject(refused);
    }
    expect((await readFile(`${path}.part`)).equals(before)).toBe(true);
    await rm(`${path}.part`);
  });

  it('begins anew in the place of a pack alone, and not of the one that is packed', async () => {
    const path = output();
    await writeFile(path, 'something else');
    const refused = { code: 'BAD_OPTION', option: 'output', found: path };
    await expect(pack({ output: path, overwrite: true })).rejects.toMatchObject(refused);
    expect(await readFile(path, 'utf8')).toBe('something else');
    await rm(path);
    await pack({ output: path });
    const whole = await readFile(path);
    await expect(pack({ output: path, overwrite: true }, await openImages(path))).rejects.toMatchObject(refused);
    expect((await readFile(path)).equals(whole)).toBe(true);
    expect((await readdir(folder)).filter((name) => /part|journal|lock/u.test(name))).toEqual([]);
  });

  it.each(['part', 'journal'])('left no other file that has the name of the %s: it is not replaced', async (ending) => {
    const path = output();
    const other = `${path}.${ending}`;
    await writeFile(other, 'of a reader');
    const refused = { code: 'BAD_OPTION', option: 'output', found: other };
    for (const overwrite of [false, true]) {
      await expect(pack({ output: path, overwrite })).rejects.toMatchObject(refused);
      await expect(checkPackPlace(path, overwrite)).rejects.toMatchObject(refused);
    }
    await rm(other);
    await pack({ output: path });
    await writeFile(other, 'of a reader');
    await expect(pack({ output: path })).rejects.toMatchObject({ code: 'BAD_OPTION', found: path });
    await expect(pack({ output: path, overwrite: true })).rejects.toMatchObject(refused);
    expect(await readFile(other, 'utf8')).toBe('of a reader');
    for (const torn of ['', '{"form']) {
      await writeFile(`${path}.part`, '');
      await writeFile(`${path}.journal`, torn);
      expect((await pack({ output: path, overwrite: true })).images).toBe(12);
    }
  });

  it('to a link, which stays, is written where that leads, whether a pack is there or not', async () => {
    const [far, link] = [output(), output()];
    await symlink(far, link);
    expect((await pack({ output: link })).file).toBe(link);
    expect((await pack({ output: link, overwrite: true })).images).toBe(12);
    expect(await readlink(link)).toBe(far);
    await rm(far);
    await stopAfter(6, { output: link });
    expect((await pack({ output: far })).resumed).toBeGreaterThan(0);
    expect((await readdir(folder)).filter((name) => /part|journal|lock/u.test(name))).toEqual([]);
  });

  it('is told by a journal of any length: it is read piece by piece, wherever a piece ends', async () => {
    const path = join(folder, 'pieces.journal');
    const task = JSON.stringify({ task: 'für alle' });
    const entry = (place: number) => ({
      place,
      offset: 64 + 2 ** 33 * place,
      bytes: 10,
      checksum: 2 ** 32 - 1 - place,
      width: 3,
      height: 4,
      fileBytes: 5,
    });
    const journal = await Journal.open(path, task, 0, addon.checksum);
    await journal.append([entry(0), { place: 1, reason: 'kein Bild: \u2028 «größer»\n' }]);
    await journal.append([entry(2), entry(3)]);
    await journal.close();
    const bytes = (await readFile(path)).byteLength;
    await writeFile(path, '[4,1', { flag: 'a' });
    for (const bytesAtOnce of [1, 2, 7, 64, bytes, undefined]) {
      expect(await readJournal(path, task, addon.checksum, bytesAtOnce), `${bytesAtOnce}`).toEqual({
        entries: [entry(0), entry(2), entry(3)],
        refused: [{ place: 1, reason: 'kein Bild: \u2028 «größer»\n' }],
        next: 4,
        end: entry(3).offset + 10,
        bytes,
      });
    }
    await expect(readJournal(path, 'another', addon.checksum, 7)).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    expect(await readJournal(join(folder, 'none.journal'), task, addon.checksum)).toBeUndefined();
    await writeFile(path, '{"task"'); // torn in its first line
    expect(await readJournal(path, task, addon.checksum)).toBeUndefined();
  });

  it('two processes do not write one pack', async () => {
    const path = output();
    const stat = await readFile(`/proc/${process.pid}/stat`, 'utf8');
    await writeFile(
      `${path}.lock`,
      JSON.stringify({
        host: hostname(),
        pid: process.pid,
        started: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19],
      }),
    );
    await expect(pack({ output: path })).rejects.toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringContaining(`process ${process.pid}`) as string,
    });
    // of one that is gone
    await writeFile(`${path}.lock`, JSON.stringify({ host: hostname(), pid: process.pid, started: '1' }));
    expect((await pack({ output: path })).images).toBe(12);
  });
});

describe('a write that fails', () => {
  const recipe = { kind: 'original', shortSide: 0, quality: 0 } as const;
  const images = [3000, 0, 2000, 4000].map((length, i) => ({
    bytes: Buffer.alloc(length, i + 1),
    width: 1,
    height: 1,
  }));
  const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
  const task = JSON.stringify({ format: 'lgdistill-pack-journal' });
  const openWriter = (path: string) =>
    PackWriter.open(path, recipe, { task, overwrite: false, syncSeconds: 60, checksum: addon.checksum });
  const lines = async (path: string) => (await readFile(`${path}.journal`, 'utf8')).split('\n').length - 2;

  /** The rest of the images, and the pack. */
  async function end(writer: PackWriter): Promise<PackFile> {
    for (const image of images.slice(writer.next)) await writer.add(image, 1);
    await writer.finish({
      recipe,
      entries: writer.entries,
      ids: images.map((_, i) => `${i}`),
      labels: undefined,
      classNames: undefined,
      source: 'test',
      refused: [],
    });
    await writer.close();
    return PackFile.open(writer.path);
  }

  async function expectWhole(opened: PackFile): Promise<void> {
    for (const [i, { bytes }] of images.entries()) expect((await opened.readEntry(i)).equals(bytes), `${i}`).toBe(true);
  }

  it('to what cannot be looked at replaces nothing', async () => {
    const path = output();
    for (const [there, code, words] of [
      [path, 'NOT_WRITABLE', 'cannot write'],
      [`${path}.part`, 'BAD_FILE', 'cannot read'],
    ] as const) {
      await symlink(there, there); // a ring, which is not that nothing is there
      await expect(openWriter(path)).rejects.toMatchObject({
        code,
        message: expect.stringContaining(`${words} ${there}`) as string,
      });
      expect(await readlink(there)).toBe(there);
      await rm(there);
    }
  });

  it('at the beginning leaves no file open, and no lock', async () => {
    const path = output();
    const open = async () =>
      (
        await Promise.all((await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
      ).filter((name) => name.startsWith(path));
    await mkdir(`${path}.journal`);
    await expect(openWriter(path)).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'output' });
    await rm(`${path}.journal`, { recursive: true });
    vi.mocked(syncFile).mockRejectedValueOnce(full);
    await expect(openWriter(path)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    expect(await open()).toEqual([]);
    const writer = await openWriter(path);
    expect(await open()).toEqual([`${path}.part`, `${path}.journal`]);
    const close = writer.file.close.bind(writer.file);
    // as a network's file system does
    vi.spyOn(writer.file, 'close').mockImplementationOnce(async () => {
      await close();
      throw full;
    });
    await expect(writer.close()).rejects.toMatchObject({ code: 'NOT_WRITABLE', cause: full });
    expect(await open()).toEqual([]);
    await (await openWriter(path)).close();
  });

  it('in its middle records nothing; the next one writes what is missing, where it belongs', async () => {
    const writer = await openWriter(output());
    for (const image of images.slice(0, 3)) await writer.add(image, 1);
    const write = writer.file.writev.bind(writer.file);
    const failing = vi.spyOn(writer.file, 'writev');
    failing.mockImplementationOnce((pieces, at) => write([(pieces[0] as Buffer).subarray(0, 1000)], at));
    failing.mockImplementationOnce((pieces, at) =>
      write([pieces[0]!, pieces[1]!, (pieces[2] as Buffer).subarray(0, 500)], at),
    );
    failing.mockRejectedValueOnce(full).mockRejectedValueOnce(full);
    for (let i = 0; i < 2; i++)
      await expect(writer.sync()).rejects.toMatchObject({
        code: 'NOT_WRITABLE',
        message: expect.stringContaining('the disk is full') as string,
      });
    expect(failing.mock.calls.map(([, at]) => at)).toEqual([64, 1064, 3564, 3564]);
    expect(await lines(writer.path)).toBe(0);
    await writer.sync();
    expect(await lines(writer.path)).toBe(3);
    await expectWhole(await end(writer));
  });

  it('at the end leaves it to the next writer', async () => {
    const writer = await openWriter(output());
    for (const image of images) await writer.add(image, 1);
    await writer.sync();
    vi.spyOn(writer.file, 'writev').mockRejectedValueOnce(full);
    for (let i = 0; i < 2; i++) await expect(end(writer)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
    await writer.close();
    const next = await openWriter(writer.path);
    expect(next.next).toBe(4);
    await expectWhole(await end(next));
  });

  it.each(['file', 'journal'] as const)(
    'on its way to the disk (%s) is not synced over; the next writer goes on from what was',
    async (which) => {
      const path = output();
      const writer = await openWriter(path);
      await writer.add(images[0]!, 1);
      await writer.sync();
      await writer.add(images[1]!, 1);
      await writer.add(images[2]!, 1);
      // The journal's line is torn before it fails.
      if (which === 'file') vi.mocked(syncFile).mockRejectedValueOnce(full);
      else
        vi.spyOn(writer.journal.handle, 'writeFile').mockImplementationOnce(async () => {
          await writer.journal.handle.write('[1,30');
          throw full;
        });
      for (let i = 0; i < 2; i++) await expect(writer.sync()).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
      await expect(end(writer)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
      await writer.close();
      expect(await lines(path)).toBe(1);
      const next = await openWriter(path);
      expect(next.next).toBe(1);
      await expectWhole(await end(next));
    },
  );
});
