/**
 * Holds the written `ConfigInput` to what zod takes, leaf by leaf: compiled by config-input.test.ts and
 * `npm run typecheck`, never run. A leaf that differs is named in the error.
 */
import type { ConfigInput, SchemaInput } from '../../lib/config/config.js';

/** A list that is only read takes any list; zod's own type says nothing of that. */
type Read<Value> = Value extends readonly (infer Item)[] ? readonly Item[] : Value;

type Mutual<A, B> = [Read<A>] extends [Read<B>] ? ([Read<B>] extends [Read<A>] ? true : false) : false;

type IsGroup<Value> = [NonNullable<Value>] extends [object]
  ? [NonNullable<Value>] extends [readonly unknown[]]
    ? false
    : true
  : false;

/** `any` is assignable both ways, and would hide whatever is behind it. */
type IsAny<Value> = 0 extends 1 & Value ? true : false;

type IsOptional<Type, Key extends keyof Type> = Record<never, never> extends Pick<Type, Key> ? true : false;

/** never where both types take the same in a leaf, or else its path. */
type LeafDifference<A, B, Path extends string> = true extends IsAny<A> | IsAny<B>
  ? Path
  : Mutual<A, B> extends true
    ? never
    : Path;

/**
 * Dotted paths of what one of the types has not, needs where the other does not, or takes other values in; never where
 * there is none.
 */
type Differences<A, B, Group extends string = ''> = {
  [Key in (keyof A | keyof B) & string]: Key extends keyof A & keyof B
    ? [IsOptional<A, Key>, IsGroup<A[Key]>] extends [IsOptional<B, Key>, IsGroup<B[Key]>]
      ? IsGroup<A[Key]> extends true
        ? Differences<NonNullable<A[Key]>, NonNullable<B[Key]>, `${Group}${Key}.`>
        : LeafDifference<A[Key], B[Key], `${Group}${Key}`>
      : `${Group}${Key}`
    : `${Group}${Key}`;
}[(keyof A | keyof B) & string];

type Found = Differences<ConfigInput, SchemaInput>;
// A new text for each, for the compiler to write them out instead of `Found`.
export const none: [Found] extends [never] ? 'none' : `${Found} differs` = 'none';
