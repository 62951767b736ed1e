/** Typed arrays of one kind, one behind the other. */
export function concatenate<Values extends Float32Array | Float64Array | Int32Array>(
  Kind: new (length: number) => Values,
  parts: readonly Values[],
): Values {
  const all = new Kind(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
