import { freemem, totalmem } from 'node:os';

/** Bytes of memory that this process may have at most: the machine's, or what its container is given. */
export function machineMemory(): number {
  return Math.min(totalmem(), process.constrainedMemory() || Infinity);
}

/** Bytes of memory that this process may still take. In a container, what others in it hold is not seen. */
export function freeMemory(): number {
  return Math.min(freemem(), Math.max(0, machineMemory() - residentBytes()));
}

function residentBytes(): number {
  try {
    return process.memoryUsage.rss();
  } catch {
    return 0; // without /proc nobody can tell
  }
}
