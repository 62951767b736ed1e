/** What tests of whole runs share: images of shapes, run folders, and the error that a run ends with. */
import { join } from 'node:path';
import { beforeAll, expect } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { LgdError } from '../../lib/errors.js';
import type { PrepareOptions } from '../../lib/train/setup.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, train } from '../fixtures/tiny.js';

/** A folder with images for one test file, made before its tests. */
export class ShapeRuns {
  readonly folder = temporaryFolder();
  /** Images to train on: 8 of each shape, of 64 px. */
  readonly data = join(this.folder, 'train');
  /** Others, 3 of each. */
  readonly labelled = join(this.folder, 'test');
  #runs = 0;

  constructor() {
    beforeAll(async () => {
      await drawShapes(this.data, { count: 8 });
      await drawShapes(this.labelled, { count: 3, seed: 2 });
    });
  }

  /** A new run folder. */
  readonly output = (): string => join(this.folder, `run-${this.#runs++}`);
}

export async function failure(config: ConfigInput, options: PrepareOptions = {}): Promise<LgdError> {
  const error: unknown = await train(config, options).then(
    () => undefined,
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(LgdError);
  return error as LgdError;
}
