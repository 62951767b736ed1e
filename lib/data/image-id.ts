/** Names of images: as they are compared, and where each stands. */
import { createHash } from 'node:crypto';
import { LgdError } from '../errors.js';
import { nextTurn } from '../turn.js';

const idsAtOnce = 8192;

/**
 * An image's id without the `./` before names that `tar c .` and `find .` write: `./a/b.jpg` and `a/b.jpg` are one
 * image.
 */
export function plainId(id: string): string {
  return id.includes('./') ? id.replace(/(^|\/)(?:\.\/+)+/gu, '$1') : id;
}

/** The place of each of any number of ids, compared by {@link plainId}: a Map holds no more than 2^24. */
export class IdPlaces {
  readonly #maps: Map<string, number>[] = [new Map()];

  /** @param most ids in one Map */
  constructor(
    ids: Iterable<string> = [],
    readonly most = 2 ** 23,
  ) {
    let place = 0;
    for (const id of ids) this.set(id, place++);
  }

  get(id: string): number | undefined {
    const plain = plainId(id);
    for (const map of this.#maps) {
      const place = map.get(plain);
      if (place !== undefined) return place;
    }
    return undefined;
  }

  has(id: string): boolean {
    return this.get(id) !== undefined;
  }

  /** Adds an id that is not there yet. */
  set(id: string, place: number): void {
    if (this.#maps.at(-1)!.size >= this.most) this.#maps.push(new Map());
    this.#maps.at(-1)!.set(plainId(id), place);
  }

  get size(): number {
    return this.#maps.reduce((sum, map) => sum + map.size, 0);
  }

  /** One of the ids, for messages. */
  get first(): string | undefined {
    return this.#maps[0]!.keys().next().value;
  }
}

/**
 * Takes the ids one after the other, in turns with other callbacks: a million of them may take a second.
 * @throws LgdError ABORTED, and what `take` throws
 */
export async function eachId(
  ids: readonly string[],
  take: (id: string, index: number) => void,
  signal: AbortSignal | undefined,
  what: string,
): Promise<void> {
  for (let from = 0; from < ids.length; from += idsAtOnce) {
    if (from > 0) await nextTurn(signal, what);
    ids.slice(from, from + idsAtOnce).forEach((id, i) => take(id, from + i));
  }
}

/**
 * Looks whether each image has an id of its own, for precomputed embeddings: two of one id would have one embedding.
 * @throws LgdError BAD_DATASET, ABORTED
 */
export async function checkDistinctIds(ids: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  const seen = new IdPlaces();
  await eachId(
    ids,
    (id, place) => {
      if (seen.has(id))
        throw new LgdError(
          'BAD_DATASET',
          `two images have the id ${JSON.stringify(id)}, by which precomputed embeddings are looked up.`,
          { option: 'data.train', mend: 'Give each image an id of its own' },
        );
      seen.set(id, place);
    },
    signal,
    'looking for images of one id',
  );
}

/** SHA-256 of the images' ids, each with a number: its place, or its label. @throws LgdError ABORTED */
export async function hashImages(
  ids: readonly string[],
  numbers: Int32Array,
  signal: AbortSignal | undefined,
): Promise<string> {
  const hash = createHash('sha256');
  await eachId(ids, (id, i) => hash.update(`${numbers[i]}\0${id}\0`), signal, 'preparing the run');
  return hash.digest('hex');
}
