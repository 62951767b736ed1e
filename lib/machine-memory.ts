import { totalmem } from 'node:os';

/** Bytes of memory that this process may have at most: the machine's, or what its container is given. */
export function machineMemory(): number {
  return Math.min(totalmem(), process.constrainedMemory() || Infinity);
}
