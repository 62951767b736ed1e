/**
 * JSON: values out of texts that anybody may have written, of which nothing is known before they are looked at, and
 * files for people to read.
 */
import { writeFileAtomically } from './write-file.js';

/** What a text says; undefined where it, or its absence, is no JSON. */
export function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}

/** Is it an object, and no array? */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The members of an object; of any other value, none. */
export function membersOf(value: unknown): Record<string, unknown> {
  return isObject(value) ? value : {};
}

export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((entry) => typeof entry === 'string');
}

/** May it be written again? What is nested some thousand deep may be read, and not be written. */
export function isWritable(value: unknown): boolean {
  try {
    JSON.stringify(value);
    return true;
  } catch {
    return false;
  }
}

/** Writes a value as JSON that people can read, as {@link writeFileAtomically} does. @throws LgdError NOT_WRITABLE */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomically(path, `${JSON.stringify(value, null, 2)}\n`);
}
