import { LgdError } from '../errors.js';
import type { Gallery } from './anchors.js';
import type { Confusion } from './confusion.js';
import type { BankMap } from './map.js';

/** A part of the report: what it shows, or why it is not there. */
export type Section<Data> = { data: Data } | { missing: string };

/** What is shown of a run besides its curves. */
export interface RunSections {
  name: string;
  map: Section<BankMap>;
  gallery: Section<Gallery>;
  confusion: Section<Confusion>;
}

/**
 * Computes a section; what is wrong with the run's files, images or models becomes its reason to be missing.
 * @throws LgdError ABORTED, and whatever is not an LgdError
 */
export async function section<Data>(compute: () => Promise<Data> | Data): Promise<Section<Data>> {
  try {
    return { data: await compute() };
  } catch (error) {
    if (!(error instanceof LgdError) || error.code === 'ABORTED') throw error;
    return { missing: error.message };
  }
}
