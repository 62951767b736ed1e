/** The table of options: the schema as command-line flags, help texts and the page of options need it. */
import { z } from 'zod';
import { describeRange } from '../number-limits.js';
import { schema } from './schema.js';

/** How an option is written. */
export type OptionType = 'string' | 'number' | 'integer' | 'boolean' | 'list';

/** One row of the option table. */
export interface ConfigOption {
  /** Dotted path, as in a configuration file: `train.batchSize`. */
  path: string;
  /** 'list' takes a string or an array of strings. */
  type: OptionType;
  /** undefined: none. */
  default: unknown;
  help: string;
  /** What values are accepted, in words. */
  allowed: string;
  /** All values that are accepted, where they are few. */
  choices: readonly string[] | undefined;
  /** Words that a number may be given by: `auto`. */
  words: readonly string[] | undefined;
  /** Command-line flag: `--train.batch-size`. */
  flag: string;
  /** The short form, where it is unique: `--batch-size`. */
  alias: string | undefined;
}

/** The part of JSON Schema that zod writes for this schema. */
interface JsonSchema {
  type?: string;
  properties?: Record<string, JsonSchema>;
  anyOf?: JsonSchema[];
  enum?: string[];
  const?: string;
  default?: unknown;
  description?: string;
  allowed?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

let table: readonly ConfigOption[] | undefined;

/** Every option in the schema's order. */
export function configOptions(): readonly ConfigOption[] {
  table ??= buildTable();
  return table;
}

/**
 * These groups belong to commands of their own; their options are always written in full (`--dense.batch-size`), and
 * take no short form from others.
 */
const writtenInFull: ReadonlySet<string> = new Set(['dense']);

/** Whether an option belongs to a group that only commands of its own take. */
export function isOfOwnCommand({ path }: Pick<ConfigOption, 'path'>): boolean {
  return writtenInFull.has(path.split('.')[0]!);
}

/** These options go by the name of their group: `--data photos`. */
const mainOptions: Readonly<Record<string, string>> = {
  'data.train': 'data',
  'student.name': 'student',
  'evaluate.data': 'evaluate',
};

function buildTable(): ConfigOption[] {
  const root = z.toJSONSchema(schema, { io: 'input' }) as JsonSchema;
  const leaves: [string, JsonSchema][] = [];
  const groups = new Set<string>();
  for (const [name, entry] of Object.entries(root.properties!)) {
    if (entry.properties === undefined) leaves.push([name, entry]);
    else {
      groups.add(name);
      for (const [inner, leaf] of Object.entries(entry.properties)) leaves.push([`${name}.${inner}`, leaf]);
    }
  }
  const last = (path: string) => path.slice(path.lastIndexOf('.') + 1);
  return leaves.map(([path, leaf]) => {
    const short = last(path);
    const unique =
      path.includes('.') &&
      !isOfOwnCommand({ path }) &&
      !groups.has(short) &&
      leaves.filter(([other]) => last(other) === short && !isOfOwnCommand({ path: other })).length === 1;
    const alias = mainOptions[path] ?? (unique ? short : undefined);
    return {
      path,
      type: numberOf(leaf)?.type ?? (leaf.anyOf !== undefined ? 'list' : (leaf.type as OptionType)),
      default: leaf.default,
      help: leaf.description ?? '',
      allowed: leaf.allowed ?? allowedValues(leaf),
      choices: leaf.enum ?? (leaf.type === 'boolean' ? ['true', 'false'] : undefined),
      words: numberOf(leaf)?.words,
      flag: `--${kebab(path)}`,
      alias: alias === undefined ? undefined : `--${kebab(alias)}`,
    };
  });
}

/** `batchSize` -> `batch-size`. */
export function kebab(path: string): string {
  return path.replace(/[A-Z]/gu, (letter) => `-${letter.toLowerCase()}`);
}

/** Of an option that takes a number, or a word for one: the number's part, and the words. */
function numberOf({
  anyOf = [],
}: JsonSchema): { type: 'number' | 'integer'; leaf: JsonSchema; words: string[] } | undefined {
  const leaf = anyOf.find(({ type }) => type === 'number' || type === 'integer');
  return leaf && { type: leaf.type as 'number' | 'integer', leaf, words: anyOf.flatMap((other) => other.const ?? []) };
}

function allowedValues(leaf: JsonSchema): string {
  const number = numberOf(leaf);
  if (number !== undefined) return [...number.words, allowedValues(number.leaf)].join(', or ');
  if (leaf.anyOf !== undefined) return 'text, or a list of texts';
  if (leaf.enum !== undefined) return leaf.enum.join(', ');
  if (leaf.type === 'boolean') return 'true or false';
  if (leaf.type === 'string') return 'text';
  return describeRange({
    whole: leaf.type === 'integer',
    least: leaf.minimum,
    above: leaf.exclusiveMinimum,
    most: leaf.maximum === Number.MAX_SAFE_INTEGER ? undefined : leaf.maximum,
    below: leaf.exclusiveMaximum,
  });
}
