/** What to do about a configuration that is not taken: the option or the value that may have been meant. */
import { describe } from '../errors.js';
import { isObject } from '../files/json.js';
import { nearestNames, suggestion } from '../text/spelling.js';
import type { ConfigOption } from './options.js';

/** Where no option is near. */
export const seeHelp = 'See lgdistill distill --help for all options';

/** What to give in the place of a value that an option does not take. */
export function mendOfValue({ type, allowed, choices }: ConfigOption, found: unknown): string {
  if (type === 'list') return 'Give a text, or a list: ["one","two"]';
  if (choices === undefined || type === 'boolean') return `Give ${allowed}`;
  return (typeof found === 'string' ? suggestion(found, choices) : undefined) ?? `Give one of ${allowed}`;
}

/**
 * What to write in the place of a name at the top of a configuration: one with dots, which are nesting there, a group's
 * or an option's with a slip, or an option's that belongs into a group.
 */
export function mendOfKey(key: string, value: unknown, options: readonly ConfigOption[]): string {
  const groups = new Set(options.flatMap(({ path }) => (path.includes('.') ? [path.slice(0, path.indexOf('.'))] : [])));
  const group = isObject(value) ? suggestion(key, groups) : undefined;
  const near = nearestOption(key, options);
  if (group !== undefined || near === undefined) return group ?? seeHelp;
  const [outer, inner] = near.split('.');
  const parts = [
    ...(near === key ? [] : [`Did you mean ${near}?`]),
    ...(inner === undefined ? [] : [`Nest it: { "${outer}": { "${inner}": ${describe(value)} } }`]),
  ];
  return parts.join(' ');
}

/** The option's path that is meant by another: itself, the right name in another group, or the nearest. */
export function nearestOption(path: string, options: readonly ConfigOption[]): string | undefined {
  const paths = options.map((option) => option.path);
  const last = lastOf(path);
  return (
    paths.find((other) => other === path) ??
    paths.find((other) => other.endsWith(`.${last}`)) ??
    nearestNames(path, paths)[0] ??
    nearestSegment(last, paths)
  );
}

function nearestSegment(last: string, paths: readonly string[]): string | undefined {
  const [near] = nearestNames(last, paths.map(lastOf));
  return near === undefined ? undefined : paths.find((path) => path === near || path.endsWith(`.${near}`));
}

function lastOf(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}
