/** Lines of text by the million: more than one string holds, which is half a billion characters. */
import { parsed } from './json.js';

const linesAtOnce = 8192;

/** Texts of some thousand lines, one after the other. @param lineOf a line without its end */
export function* joinedLines<Item>(
  items: readonly Item[],
  lineOf: (item: Item, index: number) => string,
): Generator<string, void, undefined> {
  for (let from = 0; from < items.length; from += linesAtOnce) {
    yield items
      .slice(from, from + linesAtOnce)
      .map((item, i) => `${lineOf(item, from + i)}\n`)
      .join('');
  }
}

/** A field of a comma-separated table, by RFC 4180. */
export function csvField(text: string): string {
  return /[",\r\n]/u.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * A name in a list of one a line, columns apart by tabs: as it is; as a JSON string where it would break the line or a
 * column, or looks like such a string.
 */
export function inOneLine(name: string): string {
  return /^"|\p{Cc}/u.test(name) ? JSON.stringify(name) : name;
}

/** The name that {@link inOneLine} wrote; undefined of what it did not write. */
export function fromOneLine(written: string): string | undefined {
  if (!written.startsWith('"')) return written;
  const name = parsed(written);
  return typeof name === 'string' ? name : undefined;
}

/**
 * The bytes of a file in pieces that end with a line, whatever it was cut into; what follows the last line end is left
 * out.
 */
export async function* wholeChunks(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  let begun: Uint8Array[] = [];
  for await (const chunk of chunks) {
    const end = chunk.lastIndexOf(10) + 1;
    begun.push(end === 0 ? chunk : chunk.subarray(0, end));
    if (end === 0) continue;
    yield Buffer.concat(begun);
    begun = [chunk.subarray(end)];
  }
}

/**
 * The lines of a file, as many together as a chunk of it ends.
 * @param chunks of bytes, UTF-8
 * @returns at least one line each time, without their ends, and the bytes that they took; what follows the last end is
 *   left out
 */
export async function* wholeLines(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ lines: string[]; bytes: number }, void, undefined> {
  for await (const whole of wholeChunks(chunks))
    yield { lines: whole.toString('utf8', 0, whole.byteLength - 1).split('\n'), bytes: whole.byteLength };
}
