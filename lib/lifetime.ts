import { LgdError } from './errors.js';

/**
 * Whether an object still has the memory it was made with. Its calls {@link check} first, so that a late one names the
 * object and not some part of it.
 */
export class Lifetime {
  #ended = false;

  /**
   * @param what the object, as in "the encoder resnet18"
   * @param mend what to do about its end, one imperative sentence
   */
  constructor(
    private readonly what: string,
    private readonly mend: string,
  ) {}

  get ended(): boolean {
    return this.#ended;
  }

  /** @throws LgdError DISPOSED */
  check(): void {
    if (this.#ended) throw new LgdError('DISPOSED', `${this.what} was disposed of.`, { mend: this.mend });
  }

  /** Ends it. @returns whether there is something to free: false when it had ended before */
  end(): boolean {
    const first = !this.#ended;
    this.#ended = true;
    return first;
  }
}

/**
 * What an object holds until its end.
 * @param what the object, and `mend` what to do about its end, as of {@link Lifetime}
 * @throws LgdError DISPOSED where it is gone
 */
export function held<Value>(value: Value | undefined, what: string, mend: string): Value {
  if (value === undefined) throw new LgdError('DISPOSED', `${what} was disposed of.`, { mend });
  return value;
}

/**
 * Does work that has to be ended, whatever comes of it. Where both fail the error is the work's: on a disk that is gone,
 * nothing can be ended either.
 * @throws what `work` does, and where that does not, what `end` does
 */
export async function endedBy<Result>(end: () => Promise<void>, work: () => Promise<Result>): Promise<Result> {
  let result: Result;
  try {
    result = await work();
  } catch (error) {
    await end().catch(() => undefined);
    throw error;
  }
  await end();
  return result;
}

/**
 * The parts that something has been made of so far: freed with it, or, where a later one fails, at once, and not when
 * they are found to be garbage.
 */
export class Made implements Disposable {
  readonly #frees: (() => void)[] = [];

  /** @returns the part */
  add<Part>(part: Part, free: (part: Part) => void): Part {
    this.#frees.push(() => free(part));
    return part;
  }

  /** The same of a part that frees itself. */
  use<Part extends Disposable>(part: Part): Part {
    return this.add(part, () => part[Symbol.dispose]());
  }

  /** Frees them, the last one first. */
  free(): void {
    for (const free of this.#frees.splice(0).reverse()) free();
  }

  /** For `using`: {@link free}. */
  [Symbol.dispose](): void {
    this.free();
  }
}
