/** Lock files: one process at a time writes to a place; a lock left by a process that is gone is taken over. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { systemErrorCode, writeError } from './errors.js';

/** Who holds a lock. */
export interface LockHolder {
  host: string;
  pid: number;
}

interface Lock extends LockHolder {
  started: string | undefined;
}

/**
 * Takes a lock file. Remove the file to give it back.
 * @returns undefined when it is taken; else who holds it, or 'another' for a process that takes it right now
 * @throws LgdError NOT_WRITABLE
 */
export async function takeLock(file: string): Promise<LockHolder | 'another' | undefined> {
  const own: Lock = { host: hostname(), pid: process.pid, started: await startTime(process.pid) };
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      await writeFile(file, JSON.stringify(own), { flag: 'wx' });
      return undefined;
    } catch (cause) {
      if (systemErrorCode(cause) !== 'EEXIST') throw writeError(file, cause);
      const holder = await readLock(file);
      if (holder !== undefined && (await isAlive(holder, own.host))) return holder;
      await rm(file, { force: true });
    }
  }
  return 'another';
}

async function readLock(file: string): Promise<Lock | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Lock;
  } catch {
    return undefined; // torn by a kill, or just gone
  }
}

async function isAlive({ host, pid, started }: Lock, here: string): Promise<boolean> {
  if (host !== here) return true; // cannot tell from here
  const now = await startTime(pid);
  return now !== undefined && now === started;
}

/** When a process started, in clock ticks since boot: tells a process from a later one with its number. undefined: there is none. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const line = await readFile(`/proc/${pid}/stat`, 'utf8');
    return line.slice(line.lastIndexOf(')') + 2).split(' ')[19]; // field 22, counted after the command's closing parenthesis
  } catch {
    return undefined;
  }
}
