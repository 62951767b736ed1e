import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';

const shared = process.env['LGDISTILL_SHARED'] ?? fileURLToPath(new URL('../../shared', import.meta.url));
// this folder, also from a bundle that stands in another one below the root
const tests = fileURLToPath(new URL('../test', import.meta.url));

/** A path among the committed test data: in test/fixtures, test/models. */
export function testPath(...parts: string[]): string {
  return join(tests, ...parts);
}

/**
 * A path in the optional folder of larger test data beside the checkout (or $LGDISTILL_SHARED), or undefined where it
 * is absent.
 */
export function sharedPath(...parts: string[]): string | undefined {
  const path = join(shared, ...parts);
  return existsSync(path) ? path : undefined;
}

/** Prints why a test is skipped, so that no check goes missing in silence. */
export function noteSkip(what: string, why: string): void {
  console.log(`SKIPPED ${what}: ${why}`);
}
