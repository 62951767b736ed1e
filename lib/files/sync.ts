import { fsync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { promisify } from 'node:util';
import { systemErrorCode } from '../errors.js';

/**
 * Makes what was written to a file last through a power cut; under Node's permission model, which has no fsync since
 * Node 24, only through the end of the process.
 * @throws what fs.fsync does
 */
export async function syncFile(file: FileHandle): Promise<void> {
  try {
    await file.sync();
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ERR_ACCESS_DENIED') return;
    if (code !== undefined) throw error;
    await promisify(fsync)(file.fd); // the handles of Yarn's Plug'n'Play do not sync
  }
}

/**
 * Makes renames in a folder last through a power cut, where the file system syncs folders: some shares of hosts with
 * virtual machines, and some in user space, know no such thing.
 * @throws what fs.open and fs.fsync do
 */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await syncFile(folder);
  } catch (error) {
    if (!['EINVAL', 'ENOSYS', 'ENOTSUP'].includes(systemErrorCode(error) ?? '')) throw error;
  } finally {
    await folder.close();
  }
}
