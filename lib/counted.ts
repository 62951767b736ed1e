/** Says how many there are: '1 image', '2 images', '1,000 images'. `many` where it is not `one` with an s. */
export function counted(count: number | string, one: string, many = `${one}s`): string {
  return `${count} ${String(count) === '1' ? one : many}`;
}
