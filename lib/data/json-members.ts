import { constants } from 'node:buffer';
import { withoutMark } from '../files/byte-order-mark.js';

/**
 * JSON files of lists that are longer than a string may be, half a billion characters: {"images": [...], "annotations":
 * [...]}. The members of such lists are parsed one by one; what is left of the text, with 0 in the place of each, is
 * parsed at the end, so that both together find every fault that JSON.parse finds.
 */

const [quote, backslash, comma, openBracket, closeBracket, openBrace, closeBrace] = [...'"\\,[]{}'].map((character) =>
  character.charCodeAt(0),
);

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Parses an object whose lists may be of any length.
 * @param chunks the file, UTF-8
 * @param take called with each member of each list that is a value of the object, and with the list's key
 * @param most bytes of what is parsed at once: a member, or what is in no such list
 * @returns the object, its lists' members replaced by 0; what is no object comes as it is
 * @throws SyntaxError, RangeError; TypeError (ERR_ENCODING_INVALID_ENCODED_DATA) for what is not UTF-8
 */
export async function parseMembers(
  chunks: AsyncIterable<Uint8Array>,
  take: (key: string, member: unknown) => void,
  most: number = constants.MAX_STRING_LENGTH,
): Promise<unknown> {
  const rest: string[] = [];
  let run: Uint8Array[] = []; // what was read since the last cut
  let runBytes = 0;
  let [depth, inString, isEscaped, isObject] = [0, false, false, false];
  let key: string | undefined; // of the list that is being read
  const cut = (last: Uint8Array): string => {
    const text = utf8.decode(Buffer.concat([...run, last]));
    run = [];
    runBytes = 0;
    return rest.length === 0 ? withoutMark(text) : text;
  };
  for await (const chunk of chunks) {
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (inString) {
        if (isEscaped) isEscaped = false;
        else if (byte === backslash) isEscaped = true;
        else if (byte === quote) inString = false;
      } else if (byte === quote) inString = true;
      else if (byte === openBrace || byte === openBracket) {
        if (depth === 0) isObject = byte === openBrace;
        if (++depth !== 2 || byte === openBrace || !isObject) continue;
        const before = cut(chunk.subarray(from, i + 1));
        from = i + 1;
        rest.push(before);
        key = keyOf(before);
      } else if (key !== undefined && depth === 2 && (byte === comma || byte === closeBracket)) {
        const member = cut(chunk.subarray(from, i));
        from = i;
        if (byte === comma || member.trim() !== '') {
          take(key, JSON.parse(member));
          rest.push('0');
        }
        if (byte === comma) {
          rest.push(',');
          from++;
          continue;
        }
        key = undefined;
        depth--;
      } else if (byte === closeBrace || byte === closeBracket) depth--;
    }
    run.push(chunk.subarray(from));
    runBytes += chunk.length - from;
    if (runBytes > most)
      throw new RangeError(
        `more than ${Math.floor(most / 2 ** 20)} MiB of it are one value, and not members of a list`,
      );
  }
  rest.push(cut(new Uint8Array(0)));
  return JSON.parse(rest.join('')) as unknown;
}

/** The key of a list, of the text up to its bracket: read from its end, as what stands before may be long. */
function keyOf(before: string): string {
  const end = before.search(/"\s*:\s*\[$/u);
  let start = end - 1;
  while (start >= 0 && !(before[start] === '"' && !isEscapedAt(before, start))) start--;
  return start < 0 ? '' : (JSON.parse(before.slice(start, end + 1)) as string);
}

function isEscapedAt(text: string, at: number): boolean {
  let from = at;
  while (text[from - 1] === '\\') from--;
  return (at - from) % 2 === 1;
}
