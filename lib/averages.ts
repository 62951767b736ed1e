/** The median of the finite ones among these values, of two in the middle the upper; NaN where there are none. */
export function median(values: Iterable<number>): number {
  const finite = [...values].filter(Number.isFinite).sort((a, b) => a - b);
  return finite[finite.length >> 1] ?? NaN;
}

/** The mean of the values that are there; null where none is. */
export function mean(values: readonly (number | null)[]): number | null {
  const present = values.filter((value) => value !== null);
  return present.length === 0 ? null : present.reduce((a, b) => a + b, 0) / present.length;
}
