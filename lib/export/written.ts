/** What a file holds. */
export interface Written {
  tensors: number;
  /** Numbers in the tensors, buffers included. */
  values: number;
}

export function countWritten(tensors: Iterable<{ data: ArrayLike<unknown> }>): Written {
  let [count, values] = [0, 0];
  for (const { data } of tensors) [count, values] = [count + 1, values + data.length];
  return { tensors: count, values };
}
