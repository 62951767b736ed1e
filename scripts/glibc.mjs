// Symbol versions of ELF files, as objdump prints them.
import { run } from './run.mjs';

/** The glibc that Node 20's own binaries need: where they run, the addon is to load. */
export const floor = '2.28';

/** Every versioned glibc symbol in a library's or an addon's dynamic table: { symbol, version: '2.34' }. */
export function versionedSymbols(file) {
  return [...run('objdump', ['-T', file]).matchAll(/\(?GLIBC_([\d.]+)\)?\s+(?:0x[\da-f]+ )?(\w+)$/gmu)].map(
    ([, version, symbol]) => ({
      symbol,
      version,
    }),
  );
}

/** Compares versions as numbers: below 0, 0 or above 0, as a is older than b, the same, or newer. */
export function compareVersions(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The oldest glibc that has all that an addon asks for, and the symbols that ask for the newest. */
export function glibcFloor(file) {
  let version = '0';
  let symbols = [];
  for (const needed of versionedSymbols(file)) {
    const order = compareVersions(needed.version, version);
    if (order > 0) [version, symbols] = [needed.version, []];
    if (order >= 0) symbols.push(needed.symbol);
  }
  return { version, symbols };
}
