/**
 * The spelling that treats names as one when they differ only in case, or in underscores for blanks and how many (or in
 * Unicode composition): NFC, lower case, each run of underscores and white space one blank, none at the ends, nothing
 * that is not seen. So `Traffic_Light` is `traffic light`, and `air_plane` is not `airplane`.
 */
export function normaliseName(name: string): string {
  return tidyName(name).toLowerCase();
}

/** A name as it should be written: as {@link normaliseName}, in its own case. */
export function tidyName(name: string): string {
  return name
    .normalize('NFC')
    .replace(unseen, '')
    .replace(/[\s_]+/gu, ' ')
    .trim();
}

/** Soft hyphens and blanks of no width, which come along from web pages and spreadsheets. */
const unseen = /[\u00AD\u200B\u2060]/gu;

const mostNamed = 4;

/**
 * The candidates that a word may stand for, the likeliest kind alone: those spelled alike but for case, hyphens,
 * underscores and dots; else those that it begins or has the initials of (`lr` for `learning-rate`); else the nearest
 * by edit distance, where that is near enough to be a slip (a third of its letters). Of equals the first four; empty
 * where there is none.
 */
export function nearestNames(word: string, candidates: Iterable<string>): string[] {
  const bare = bareName(word);
  const all = [...new Set(candidates)].map((name) => ({ name, bare: bareName(name) }));
  const kinds: ((candidate: { name: string; bare: string }) => boolean)[] = [
    (candidate) => candidate.bare === bare,
    (candidate) =>
      (bare.length > 2 && candidate.bare.startsWith(bare)) || (bare.length > 1 && initialsOf(candidate.name) === bare),
  ];
  for (const isAlike of kinds) {
    const alike = all.filter(isAlike);
    if (alike.length > 0) return alike.slice(0, mostNamed).map(({ name }) => name);
  }
  const isSlip = (distance: number, other: string) =>
    distance <= Math.max(1, Math.floor(Math.max(bare.length, other.length) / 3));
  // a word of a million letters is none, and takes long to be measured
  if (!all.some((candidate) => isSlip(Math.abs(candidate.bare.length - bare.length), candidate.bare))) return [];
  const measured = all.map((candidate) => ({ ...candidate, distance: editDistance(bare, candidate.bare) }));
  const least = Math.min(...measured.map(({ distance }) => distance));
  return measured
    .filter((candidate) => candidate.distance === least && isSlip(least, candidate.bare))
    .slice(0, mostNamed)
    .map(({ name }) => name);
}

/** `Did you mean resnet18 or resnet34?`, of {@link nearestNames}; undefined where there is none. */
export function suggestion(word: string, candidates: Iterable<string>, what = ''): string | undefined {
  const near = nearestNames(word, candidates);
  return near.length === 0 ? undefined : `Did you mean ${what}${near.join(', ').replace(/, ([^,]*)$/u, ' or $1')}?`;
}

function bareName(name: string): string {
  return name.toLowerCase().replace(/[-_.]/gu, '');
}

/** `--learning-rate` -> `lr`, `train.batchSize` -> `tbs`. */
function initialsOf(name: string): string {
  return name
    .replace(/([a-z])([A-Z])/gu, '$1-$2')
    .split(/[-_.]+/u)
    .map((part) => part.charAt(0))
    .join('')
    .toLowerCase();
}

/**
 * The fewest insertions, deletions, replacements and exchanges of neighbours that turn a into b (optimal string
 * alignment: no letter is changed twice).
 */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const exchanged =
        i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
      next.push(Math.min(replaced, exchanged, row[j]! + 1, next[j - 1]! + 1));
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}
