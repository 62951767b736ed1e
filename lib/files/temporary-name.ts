import { randomBytes } from 'node:crypto';

/** What tells a temporary file from every other one that is written beside it: by another call, thread, process or machine. */
export function uniqueMark(): string {
  return randomBytes(6).toString('hex');
}
