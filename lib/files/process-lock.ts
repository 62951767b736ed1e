/** Lock files: one process at a time writes to a place; a lock left by a process that is gone is taken over. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { threadId } from 'node:worker_threads';
import { systemErrorCode, writeError } from '../errors.js';

/** Who holds a lock. */
export interface LockHolder {
  host: string;
  pid: number;
  /** Of the process's threads; undefined in locks of earlier versions. */
  thread?: number;
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
  const own: Lock = { host: hostname(), pid: process.pid, thread: threadId, started: await startTime(process.pid) };
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

/**
 * Who holds a lock in words, and what can be done about it. Whether another thread of this process still runs cannot be told from here.
 * @param other what can be chosen in the locked one's place
 */
export function tellHolder({ host, pid, thread }: LockHolder, file: string, other: string): { who: string; mend: string } {
  const wait = `Wait for it, or choose ${other}`;
  if (host !== hostname() || pid !== process.pid) return { who: `process ${pid} on ${host}`, mend: `${wait} (remove ${file} if that process is gone)` };
  if (thread === undefined || thread === threadId) return { who: `this process itself (process ${pid}, in another call)`, mend: wait };
  return { who: `this process itself (process ${pid}, in its thread ${thread})`, mend: `${wait} (remove ${file} if that thread was terminated)` };
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
