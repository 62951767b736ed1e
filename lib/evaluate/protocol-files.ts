/** What a protocol leaves behind: results as JSON, predictions as tables, lists of images. */
import { join } from 'node:path';
import { csvField, inOneLine, joinedLines } from '../files/lines.js';
import { makeFolder } from '../files/make-folder.js';
import { writeFileAtomically } from '../files/write-file.js';
import { version } from '../package.js';
import type { ImageLists, ProtocolEvaluation, ProtocolResult } from './protocol-result.js';

/**
 * Writes `<protocol>.json`; `<protocol>-<n>.csv` for each result (`<protocol>.csv` for one alone): image, class, what
 * it was taken for, how many classes come before the right one; `<name>.txt` for each list, an id a line.
 * @returns the files' paths
 * @throws LgdError NOT_WRITABLE
 */
export async function writeProtocol(
  folder: string,
  { protocol, file, info, bankHash, names, images, results, remarks, seconds }: Omit<ProtocolEvaluation, 'files'>,
  lists: ImageLists,
): Promise<string[]> {
  await makeFolder(folder);
  const files: string[] = [];
  const write = async (name: string, text: string | Iterable<string>) => {
    await writeFileAtomically(join(folder, name), text);
    files.push(join(folder, name));
  };
  const content = {
    version,
    protocol,
    student: file,
    info,
    bankHash,
    seconds,
    ...(remarks.length > 0 && { remarks }),
    results: results.map(({ answers, ...result }) => ({ ...result, images: answers.targets.length })),
  };
  await write(`${protocol}.json`, `${JSON.stringify(content, undefined, 2)}\n`);
  for (const [place, result] of results.entries())
    await write(
      results.length === 1 ? `${protocol}.csv` : `${protocol}-${place + 1}.csv`,
      tableOf(result, names, images),
    );
  for (const [name, ids] of lists) await write(`${name}.txt`, joinedLines(ids, inOneLine));
  return files;
}

function* tableOf(
  { answers: { targets, predicted, ranks } }: ProtocolResult,
  names: readonly string[],
  images: readonly string[],
): Generator<string, void, undefined> {
  yield 'image,class,predicted,classes before\n';
  yield* joinedLines(
    images,
    (image, i) => [image, names[targets[i]!]!, names[predicted[i]!]!].map(csvField).join(',') + `,${ranks[i]!}`,
  );
}
