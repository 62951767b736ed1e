import { fsync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { promisify } from 'node:util';

/**
 * Makes what was written to a file last through a power cut. By its number: under Yarn's Plug'n'Play, the handles' own `sync` and `datasync` throw.
 * @throws what fs.fsync does
 */
export async function syncFile({ fd }: FileHandle): Promise<void> {
  await promisify(fsync)(fd);
}

/** Makes renames in a folder last through a power cut. @throws what fs.open and fs.fsync do */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await syncFile(folder);
  } finally {
    await folder.close();
  }
}
