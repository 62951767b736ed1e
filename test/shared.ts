import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

const root = process.env['LGDISTILL_SHARED'] ?? fileURLToPath(new URL('../../shared', import.meta.url));

/** A path in the optional folder of larger test data beside the checkout (or $LGDISTILL_SHARED), or undefined where it is absent. */
export function sharedPath(...parts: string[]): string | undefined {
  const path = join(root, ...parts);
  return existsSync(path) ? path : undefined;
}

/** Prints why a test is skipped, so that no check goes missing in silence. */
export function noteSkip(what: string, why: string): void {
  console.log(`SKIPPED ${what}: ${why}`);
}
