/** The record of what a run was begun with: what its folder is known by. */
import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isFile } from './folders.js';
import { membersOf, parsed } from './json.js';
import { readFile } from './open.js';

export const configFile = 'config.json';
/** Lines for machines; a run has them from its first moment. */
export const metricsFile = 'metrics.jsonl';

/**
 * Is a file a run's own config.json, by whatever name: with its metrics beside it, or of several students the folder of
 * each?
 */
export async function isRunRecord(path: string): Promise<boolean> {
  const file = await realpath(path).catch(() => path);
  if (basename(file) !== configFile) return false;
  const folder = dirname(file);
  if (await isFile(join(folder, metricsFile))) return true;
  const { name } = membersOf(membersOf(parsed(await readFile(file, 'utf8').catch(() => '')))['student']);
  if (typeof name !== 'string' || !name.includes(',')) return false;
  const members = name.split(',').map((student) => isFile(join(folder, student.trim(), configFile)));
  return (await Promise.all(members)).every(Boolean);
}
