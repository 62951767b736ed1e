/** Options by their dotted paths. */
import { isObject } from '../files/json.js';

/** The value at a dotted path; undefined where there is none. */
export function optionOf(config: object, path: string): unknown {
  let value: unknown = config;
  for (const part of path.split('.')) value = isObject(value) ? value[part] : undefined;
  return value;
}

/** Is an option among these paths? `evaluate.*` stands for all of its group. */
export function isAmong(path: string, paths: readonly string[]): boolean {
  return paths.some((entry) => entry === path || (entry.endsWith('.*') && path.startsWith(entry.slice(0, -1))));
}
