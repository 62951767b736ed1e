/**
 * Lock files: one process at a time writes to a place; a lock left by a process that is gone, or by a thread of one (a
 * worker that was terminated), is taken over.
 *
 * A lock is written under a name of its own and linked into place, so that nobody ever reads a part of one. No two have
 * the same text. One that is there goes in two ways only: its owner, which lives, removes it; or its owner is gone, and
 * the process that has the turn at it renames another over it. The turn is a lock beside it, named by a hash of the
 * dead lock's text, so that whoever reads the same dead lock asks for the same turn. With the turn a process reads
 * again what it read: while that is there, it stays, for all who would replace it wait for this turn; if it is not,
 * somebody had the turn before, and the process begins anew. So a live lock is never removed, whoever is slow at what.
 * A process that dies with the turn leaves a dead lock in its place, which is taken over in the same way. Once a lock
 * is held, turns and unfinished locks beside it ({@link besideLock}) have no effect: what they were to replace is not
 * there any more.
 *
 * A process is looked up by its number, which in another container is none or another process's, and of another user's
 * process may be hidden (hidepid of /proc). So the owner of a lock also listens at a socket named after it
 * ({@link listen}): containers with one host name mostly share their network (Docker's --network host, a pod), where
 * each sees the other's sockets.
 */
import { createHash } from 'node:crypto';
import { readlinkSync, writeFileSync } from 'node:fs';
import { link, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { threadId } from 'node:worker_threads';
import { LgdError, systemErrorCode, writeError } from '../errors.js';
import { membersOf, parsed } from './json.js';
import { uniqueMark } from './temporary-name.js';

/** Who holds a lock. */
export interface LockHolder {
  host: string;
  pid: number;
  /** Of the process's threads. */
  thread: number;
  /** Is it this process? */
  isOwn: boolean;
}

interface Lock extends Omit<LockHolder, 'isOwn'> {
  /** The system's number of that thread; of the first one that of the process. */
  task?: number;
  /** When it started. */
  started: string | undefined;
  /** Tells it from every other lock. */
  mark: string;
}

/** How long a text that is no lock must stay as it is until it counts as what a power cut left, in milliseconds. */
const tornAfter = 1000;

/** Marks of locks that were taken or given back while their disk was away, and whose files may still be there. */
const givenBack = new Set<string>();

/**
 * Takes a lock file.
 * @returns what gives it back (and throws NOT_WRITABLE where it cannot); else who holds it, or 'another' for a process
 *   that takes it right now
 * @throws LgdError NOT_WRITABLE
 */
export async function takeLock(
  file: string,
): Promise<{ release: () => Promise<void> } | { holder: LockHolder | 'another' }> {
  const task = ownTask();
  const own: Lock = {
    host: hostname(),
    pid: process.pid,
    thread: threadId,
    task,
    started: await startTime(process.pid, task).catch((cause: unknown) => {
      throw writeError(file, cause); // such as too many open files
    }),
    mark: uniqueMark(),
  };
  const text = JSON.stringify(own);
  const unfinished = besideLock(file, own.mark);
  const isHeld = async () => (await readText(file)) === text;
  const stopListening = await listen(own.mark);
  const release = async () => {
    try {
      if (await isHeld()) await rm(file, { force: true });
    } catch (cause) {
      givenBack.add(own.mark);
      throw writeError(file, cause);
    } finally {
      stopListening();
    }
  };
  let held = false;
  try {
    for (let attempt = 0; attempt < 5; attempt++) {
      await writeFile(unfinished, text);
      held = await place(unfinished, file, text);
      if (held) return { release };
      const found = await readText(file);
      held = found === text; // the network lost the answer, not the link
      if (held) return { release };
      if (found === undefined) continue; // given back meanwhile
      const before = parseLock(found);
      if (before === undefined && !isTorn(found)) throw foreignFile(file);
      const holder = before && (await findHolder(before, own.host));
      if (holder !== undefined) return { holder };
      if (before === undefined && (await changes(file, found))) continue;
      const turn = await takeLock(besideLock(file, createHash('sha256').update(found).digest('hex').slice(0, 12)));
      if ('holder' in turn) break;
      try {
        if ((await readText(file)) === found) await rename(unfinished, file);
        held = await isHeld();
        if (held) return { release };
      } finally {
        await turn.release();
      }
    }
    return { holder: 'another' };
  } catch (cause) {
    held = false;
    givenBack.add(own.mark); // it may be there all the same
    throw writeError(file, cause);
  } finally {
    if (!held) stopListening();
    await rm(unfinished, { force: true }).catch(() => undefined);
  }
}

/**
 * The path of what stands beside a lock while it is taken, which a kill may leave.
 * @param mark '' for what all of them begin with
 */
export function besideLock(file: string, mark: string): string {
  return join(dirname(file), `.${basename(file).replace(/^\./u, '')}-${mark}`);
}

/**
 * Puts an own lock into an empty place, at one stroke. Where the file system has no links (exFAT, some network mounts)
 * the file is made first and filled then: there a process that is held up between the two for longer than
 * {@link tornAfter} is taken for dead, and may then believe to hold what another holds.
 */
async function place(unfinished: string, file: string, text: string): Promise<boolean> {
  try {
    await link(unfinished, file);
    return true;
  } catch (cause) {
    if (systemErrorCode(cause) === 'EEXIST') return false;
  }
  try {
    writeFileSync(file, text, { flag: 'wx' }); // nothing else of this process comes between
  } catch (cause) {
    if (systemErrorCode(cause) === 'EEXIST') return false;
    throw cause;
  }
  return (await readText(file)) === text;
}

/**
 * Who holds a lock in words, and what can be done about it.
 * @param other what can be chosen in the locked one's place
 */
export function tellHolder(
  { host, pid, thread, isOwn }: LockHolder,
  file: string,
  other: string,
): { who: string; mend: string } {
  const wait = `Wait for it, or choose ${other}`;
  if (!isOwn) return { who: `process ${pid} on ${host}`, mend: `${wait} (remove ${file} if that process is gone)` };
  return {
    who: `this process itself (process ${pid}, in ${thread === threadId ? 'another call' : `its thread ${thread}`})`,
    mend: wait,
  };
}

/** undefined: there is none. */
async function readText(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (['ENOENT', 'ESTALE'].includes(systemErrorCode(cause) ?? '')) return undefined;
    throw cause;
  }
}

/** undefined: the text is no lock. */
function parseLock(text: string): Lock | undefined {
  const lock = membersOf(parsed(text));
  return typeof lock['host'] === 'string' && typeof lock['pid'] === 'number' ? (lock as unknown as Lock) : undefined;
}

/** Is it what a power cut leaves of a lock: the beginning of its text, or zeros in its place? */
function isTorn(text: string): boolean {
  const first = '{"host":';
  return text.startsWith(first) || first.startsWith(text) || /^\0*$/u.test(text);
}

function foreignFile(file: string): LgdError {
  return new LgdError('NOT_WRITABLE', `cannot lock by ${file}: there is another file of that name.`, {
    mend: 'Move that file, or choose another place',
  });
}

/** Is a text that is no lock one that is being written? */
async function changes(file: string, found: string): Promise<boolean> {
  await sleep(tornAfter);
  return (await readText(file)) !== found;
}

/** Who holds a lock; undefined: it is gone. */
async function findHolder(
  { host, pid, task = pid, thread, started, mark }: Lock,
  here: string,
): Promise<LockHolder | undefined> {
  if (givenBack.has(mark)) return undefined;
  if (host !== here) return { host, pid, thread, isOwn: false }; // cannot tell from here
  const now = await startTime(pid, task);
  if (now !== undefined && now === started && !(await hasEnded(pid)))
    return { host, pid, thread, isOwn: pid === process.pid };
  const sockets = await readFile('/proc/net/unix', 'utf8').catch(() => '');
  return sockets.includes(`@${socketName(mark)}`) ? { host, pid, thread, isOwn: false } : undefined;
}

/**
 * Listens at a lock's socket (an abstract one, no file) while the calling thread lives, also while it is busy.
 * @returns what ends it
 */
async function listen(mark: string): Promise<() => void> {
  const server = createServer((socket) => socket.destroy()).unref();
  await new Promise<void>((resolve) => {
    server.once('listening', resolve).on('error', () => resolve()); // without it the lock is as good as its number
    try {
      server.listen({ path: `\0${socketName(mark)}`, exclusive: true });
    } catch {
      resolve(); // Node's permission model
    }
  });
  return () => void server.close();
}

function socketName(mark: string): string {
  return `lgdistill-${mark}`;
}

/** The system's number of the calling thread. A worker's thread ends after all that it had under way. */
function ownTask(): number {
  try {
    return Number(basename(readlinkSync('/proc/thread-self')));
  } catch {
    return process.pid;
  }
}

/**
 * Has a process ended that nobody has waited for yet, as in a container whose first process waits for no orphans? Its
 * first thread may be a zombie while others finish what they had under way.
 */
async function hasEnded(pid: number): Promise<boolean> {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const isZombie = line.slice(line.lastIndexOf(')') + 2).startsWith('Z');
  return isZombie && (await readdir(`/proc/${pid}/task`).catch(() => [])).length <= 1;
}

/**
 * When a thread of a process started, in clock ticks since boot: tells it from a later one with its number. undefined:
 * there is none.
 */
async function startTime(pid: number, task: number): Promise<string | undefined> {
  try {
    const line = await readFile(`/proc/${pid}/task/${task}/stat`, 'utf8');
    // field 22, counted after the command's closing parenthesis
    return line.slice(line.lastIndexOf(')') + 2).split(' ')[19];
  } catch (cause) {
    if (['ENOENT', 'ESRCH'].includes(systemErrorCode(cause) ?? '')) return undefined;
    throw cause; // such as too many open files, which says nothing of that thread
  }
}
