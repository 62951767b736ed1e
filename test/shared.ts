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

/**
 * Cases of a test: `always` those that no others stand for, and `besides` where $LGDISTILL_TESTS is all. Prints what is
 * left out.
 */
export function andAll<Case>(what: string, always: readonly Case[], besides: readonly Case[]): Case[] {
  return [...always, ...(testsAll(what) ? besides : [])];
}

/**
 * Is a check wanted that repeats at size, or with more draws, what smaller ones hold the code to? $LGDISTILL_TESTS=all
 * (`npm run test:all`) asks for them; else prints which is left out.
 */
export function testsAll(what: string): boolean {
  const wanted = process.env['LGDISTILL_TESTS'];
  if (wanted === 'all') return true;
  noteSkip(what, 'LGDISTILL_TESTS is not all (npm run test:all)');
  return false;
}
