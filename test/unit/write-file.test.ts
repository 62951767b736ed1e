import { mkdir, readdir, readFile, readlink, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { writeProtocol } from '../../lib/evaluate/protocol-files.js';
import { writeFileAtomically } from '../../lib/files/write-file.js';
import { temporaryPath } from '../../lib/files/temporary-name.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();

/** The temporary file of a process that was killed that many hours ago, or that still writes. */
async function left(path: string, hoursAgo: number): Promise<string> {
  const temporary = temporaryPath(path);
  await writeFile(temporary, 'a part');
  const then = new Date(Date.now() - hoursAgo * 3_600_000);
  await utimes(temporary, then, then);
  return temporary.slice(folder.length + 1);
}

test('files that a kill left go with the next write to their place, those of others stay', async () => {
  const [bank, result] = [join(folder, 'bank.safetensors'), join(folder, 'zeroshot.json')];
  const gone = [await left(bank, 2), await left(bank, 30), await left(result, 2)];
  const kept = [await left(bank, 0), await left(join(folder, 'other.json'), 2)];
  await TextualSemanticsBank.fromEmbeddings(['a', 'b'], Float32Array.of(1, 0, 0, 1), { encoderId: 'made up' }).save(
    bank,
  );
  await writeProtocol(
    folder,
    { protocol: 'zeroshot', names: ['a', 'b'], images: [], results: [], remarks: [] } as never,
    new Map(),
  );
  const entries = await readdir(folder);
  for (const name of gone) expect(entries).not.toContain(name);
  for (const name of kept) expect(entries).toContain(name);
});

test('where a link leads into a folder that is not there, that folder is named', async () => {
  const link = join(folder, 'lost.txt');
  await symlink('nowhere/file.txt', link);
  await expect(writeFileAtomically(link, 'text')).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    mend: `Make the folder ${join(folder, 'nowhere')}, or choose another path`,
  });
});

test('a link stays, and what it leads to is written, whether that is there or not', async () => {
  await mkdir(join(folder, 'far', 'inner'), { recursive: true });
  await symlink('far/inner', join(folder, 'short'));
  await symlink('../target.txt', join(folder, 'short', 'first')); // in far, not beside `short`
  await symlink('short/first', join(folder, 'link.txt'));
  for (const text of ['one', 'two']) {
    await writeFileAtomically(join(folder, 'link.txt'), text);
    expect(await readFile(join(folder, 'far', 'target.txt'), 'utf8')).toBe(text);
    expect(await readlink(join(folder, 'link.txt'))).toBe('short/first');
    expect(await readdir(join(folder, 'far', 'inner'))).toEqual(['first']);
  }
});
