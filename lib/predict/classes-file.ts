/** What images were taken for, as a file: a comma-separated table, or lines of JSON. */
import { extname } from 'node:path';
import { checkArgument, checkText } from '../arguments.js';
import { LgdError } from '../errors.js';
import { csvField } from '../files/lines.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { Classification } from './classify.js';

/** Of one image: its id, and the nearest names, the nearest first. */
export interface ClassifiedImage {
  image: string;
  names: { name: string; cosine: number }[];
}

/** What {@link classifyImages} found, image by image. @throws LgdError BAD_OPTION */
export function* classifiedImages(
  classification: Pick<Classification, 'ids' | 'names' | 'top' | 'indices' | 'cosines'>,
): Generator<ClassifiedImage, void, undefined> {
  checkArgument('classification', classification);
  const { ids, names, top, indices, cosines } = classification;
  for (const [i, image] of ids.entries()) {
    const places = Array.from({ length: top }, (_, place) => i * top + place);
    yield { image, names: places.map((place) => ({ name: names[indices[place]!]!, cosine: cosines[place]! })) };
  }
}

const digits = 4; // behind the point: a cosine in bfloat16 has no more

/** `image,name,cosine,name 2,cosine 2 ...`, by RFC 4180. */
export function* classesAsCsv(classification: Classification): Generator<string, void, undefined> {
  const places = Array.from({ length: classification.top }, (_, i) => i + 1);
  const columns = places.flatMap((place) => (place === 1 ? ['name', 'cosine'] : [`name ${place}`, `cosine ${place}`]));
  yield `image,${columns.join(',')}\n`;
  for (const { image, names } of classifiedImages(classification)) {
    const fields = names.flatMap(({ name, cosine }) => [csvField(name), cosine.toFixed(digits)]);
    yield `${[csvField(image), ...fields].join(',')}\n`;
  }
}

/** A {@link ClassifiedImage} a line. */
function* classesAsJson(classification: Classification): Generator<string, void, undefined> {
  for (const { image, names } of classifiedImages(classification)) {
    const rounded = names.map(({ name, cosine }) => ({ name, cosine: Number(cosine.toFixed(digits)) }));
    yield `${JSON.stringify({ image, names: rounded })}\n`;
  }
}

/**
 * Writes what images were taken for: into a .jsonl file a {@link ClassifiedImage} a line, else a table with the columns
 * image, name, cosine, name 2, cosine 2, ...
 * @throws LgdError BAD_OPTION, NOT_WRITABLE
 */
export async function writeClassification(file: string, classification: Classification): Promise<void> {
  await writeFileAtomically(file, (classesFormat(file) === 'csv' ? classesAsCsv : classesAsJson)(classification));
}

/** What {@link writeClassification} would write there. @throws LgdError BAD_OPTION */
export function classesFormat(file: string): 'csv' | 'jsonl' {
  checkText(file, 'output', 'a .csv or .jsonl file');
  const ending = extname(file).toLowerCase();
  if (ending === '.csv' || ending === '.jsonl') return ending.slice(1) as 'csv' | 'jsonl';
  throw new LgdError('BAD_OPTION', 'the ending does not say what to write.', {
    option: 'output',
    found: file,
    allowed: '.csv, .jsonl',
    mend: 'Give a file with one of these endings',
  });
}
