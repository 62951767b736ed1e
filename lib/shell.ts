/** Words of command lines that a message tells to type. */

/** In single quotes, for every POSIX shell and for fish. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** As it stands where no shell reads anything into it, else in quotes. */
export function shellWord(text: string): string {
  return /^[\p{L}\p{N}_./:@%+,=-]+$/u.test(text) ? text : quoted(text);
}
