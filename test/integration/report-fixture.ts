import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { drawShapes, shapeNames, smallConfig, train } from '../fixtures/tiny.js';

/** Names as users may give them: markup, quotes, and what would end a script element or a template. */
export const hostileNames = [
  '<script>alert(1)</script>',
  `"quoted" & 'so'`,
  '<img src=x onerror=alert(2)>',
  '${alert(3)}</script>',
] as const;

export interface ReportRuns {
  /** A run over {@link hostileNames}, evaluated, in a folder whose name is markup too. */
  hostile: string;
  /** A shorter run over plain names, not evaluated. */
  plain: string;
  /** Folder of training images of both. */
  images: string;
  evaluate: string;
}

/** Trains two small runs to report on. */
export async function makeReportRuns(folder: string): Promise<ReportRuns> {
  const [images, evaluate, mapping] = [join(folder, 'images'), join(folder, 'labelled'), join(folder, 'mapping.json')];
  const [hostile, plain] = [join(folder, '<b> "run" & one'), join(folder, 'plain')];
  await mkdir(folder, { recursive: true });
  await drawShapes(images, { count: 6 });
  await drawShapes(evaluate, { count: 3, seed: 2 });
  await writeFile(mapping, JSON.stringify(Object.fromEntries(shapeNames.map((name, i) => [name, hostileNames[i]]))));
  await train(
    smallConfig(images, hostile, {
      names: [...hostileNames],
      evaluate: { data: evaluate, mapping },
      train: { epochs: 3 },
    }),
  );
  await train(smallConfig(images, plain, { loss: { alpha: 0.25 } }));
  return { hostile, plain, images, evaluate };
}
