/**
 * The spelling that treats names as one when they differ only in case, underscores or blanks (or in Unicode composition):
 * NFC, lower case, each run of underscores and white space one blank, none at the ends.
 */
export function normaliseName(name: string): string {
  return name.normalize('NFC').toLowerCase().replace(/[\s_]+/gu, ' ').trim();
}

/** The candidate nearest to a word by edit distance, or undefined where none is near enough to be a slip (a third of its letters). */
export function nearestName(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Infinity;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best !== undefined && bestDistance <= Math.max(1, Math.floor(Math.max(word.length, best.length) / 3)) ? best : undefined;
}

/** Levenshtein distance: the fewest insertions, deletions and replacements of letters that turn a into b. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
