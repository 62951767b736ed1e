import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import { dirname, join } from 'node:path';

/**
 * Bytes of memory that this process may have at most: the machine's, or what its container or batch system grants.
 * @param root '/', or a folder in its place
 */
export function machineMemory(root = '/'): number {
  const limits = [
    ...ofControlGroups('memory', ['memory.max', 'memory.limit_in_bytes'], root),
    ...ofControlGroups('memory', ['memory.high'], root),
  ];
  return Math.min(totalmem(), ...limits.map(Number).filter((bytes) => bytes > 0));
}

/** Bytes of memory that this process may still take. In a container, what others in it hold is not seen. */
export function freeMemory(): number {
  return Math.min(freemem(), Math.max(0, machineMemory() - residentBytes()));
}

/**
 * What a file says of each control group that this process is in, from its own up: a limit may stand at any of them.
 * Node and libuv read its own alone, which of a batch system's has none.
 * @param files its names in version 2 and version 1 of control groups
 */
export function ofControlGroups(
  controller: string,
  [second, first]: readonly [second?: string, first?: string],
  root: string,
): string[] {
  const groups = readIfThere(join(root, 'proc/self/cgroup'));
  const old = new RegExp(`^\\d+:(?:[^:\n]*,)?${controller}(?:,[^:\n]*)?:(.*)$`, 'mu').exec(groups)?.[1];
  const own = old ?? /^0::(.*)$/mu.exec(groups)?.[1] ?? '/';
  const file = old === undefined ? second : first;
  if (file === undefined) return [];
  const texts: string[] = [];
  for (let group = join('/', own); ; group = dirname(group)) {
    texts.push(readIfThere(join(root, 'sys/fs/cgroup', old === undefined ? '' : controller, group, file)));
    if (group === '/') return texts.filter((text) => text !== '');
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function residentBytes(): number {
  try {
    return process.memoryUsage.rss();
  } catch {
    return 0; // without /proc nobody can tell
  }
}
