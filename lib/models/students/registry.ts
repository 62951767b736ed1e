import { LgdError } from '../../errors.js';
import { suggestion } from '../../text/spelling.js';
import { convnextAtto, convnextFemto, convnextNano, convnextPico, convnextTiny } from './convnext.js';
import type { StudentDefinition } from './definition.js';
import { efficientnetB0, efficientnetB1, efficientnetB2, efficientnetB3 } from './efficientnet.js';
import { efficientnetLite0 } from './efficientnet_lite.js';
import { efficientnetV2M, efficientnetV2S } from './efficientnet_v2.js';
import { mobilenetV2 } from './mobilenet_v2.js';
import { mobilenetV3Large, mobilenetV3Small } from './mobilenet_v3.js';
import { mobilenetV4ConvMedium, mobilenetV4ConvSmall } from './mobilenet_v4.js';
import { resnet18, resnet34, resnet50 } from './resnet.js';
import { tfEfficientnetV2B0, tfEfficientnetV2B1, tfEfficientnetV2B2, tfEfficientnetV2B3 } from './tf_efficientnetv2.js';
import { vitSmallPatch16, vitSmallPatch32, vitTinyPatch16 } from './vit.js';

const definitions: StudentDefinition[] = [
  resnet18,
  resnet34,
  resnet50,
  mobilenetV2,
  mobilenetV3Small,
  mobilenetV3Large,
  mobilenetV4ConvSmall,
  mobilenetV4ConvMedium,
  efficientnetB0,
  efficientnetB1,
  efficientnetB2,
  efficientnetB3,
  efficientnetV2S,
  efficientnetV2M,
  tfEfficientnetV2B0,
  tfEfficientnetV2B1,
  tfEfficientnetV2B2,
  tfEfficientnetV2B3,
  efficientnetLite0,
  convnextAtto,
  convnextFemto,
  convnextPico,
  convnextNano,
  convnextTiny,
  vitTinyPatch16,
  vitSmallPatch16,
  vitSmallPatch32,
];

/** Names of all students. */
export function listStudents(): string[] {
  return definitions.map((definition) => definition.name);
}

/** Those of these students that were published with AdamW, and its rate for each; networks that are not listed were not. */
export function thoseOfAdamw(names: readonly string[]): { name: string; adamwPeak: number }[] {
  return definitions.flatMap(({ name, adamwPeak }) =>
    adamwPeak !== undefined && names.includes(name) ? [{ name, adamwPeak }] : [],
  );
}

/**
 * @param option what the caller knows the name by
 * @throws LgdError BAD_OPTION with the nearest name
 */
export function findStudent(name: string, option = 'student'): StudentDefinition {
  const found = definitions.find((definition) => definition.name === name);
  if (found) return found;
  if (typeof name === 'string' && name.includes(',')) {
    throw new LgdError('BAD_OPTION', 'only distill takes several students.', {
      option,
      found: name,
      allowed: listStudents().join(', '),
      mend: 'Give one of them (student.name)',
    });
  }
  const nearest = typeof name === 'string' ? suggestion(name, listStudents()) : undefined;
  const own = 'A network of your own is known only to the program that builds it (new Student), and by its file';
  throw new LgdError('BAD_OPTION', 'there is no student of this name.', {
    option,
    found: name,
    allowed: listStudents().join(', '),
    mend: nearest === undefined ? own : `${nearest} ${own}`,
  });
}

/**
 * Refuses a width multiplier where a family has none.
 * @param option what the caller knows it by
 * @throws LgdError BAD_OPTION
 */
export function checkWidth({ name, scalable }: StudentDefinition, widthMultiplier: number, option: string): void {
  if (widthMultiplier === 1 || scalable) return;
  throw new LgdError('BAD_OPTION', `${name} has no width multiplier.`, {
    option,
    found: widthMultiplier,
    allowed: '1',
    mend: `Leave ${option} out, or take a student that has one: ${definitions
      .filter((one) => one.scalable)
      .map((one) => one.name)
      .join(', ')}`,
  });
}

/**
 * Refuses images that are no whole number of patches a side for one of these students.
 * @param resolution side of the images in pixels
 * @param by what the caller knows the side by, and what to say of the nearest that fits all of them
 * @throws LgdError BAD_OPTION
 */
export function checkPatches(
  names: readonly string[],
  resolution: number,
  by: { option: string; mend?: ((nearest: number) => string) | undefined },
): void {
  const { option, mend = (nearest) => `Set it to ${nearest}` } = by;
  const patches = names.map((name) => ({ name, patch: findStudent(name).patch ?? 1 }));
  const wrong = patches.find(({ patch }) => resolution % patch !== 0);
  if (wrong === undefined) return;
  const unit = patches.reduce((most, { patch }) => leastCommonMultiple(most, patch), 1);
  throw new LgdError('BAD_OPTION', `${wrong.name} looks at patches of ${wrong.patch} px.`, {
    option,
    found: resolution,
    allowed: `multiples of ${unit}`,
    mend: mend(Math.max(1, Math.round(resolution / unit)) * unit),
  });
}

function leastCommonMultiple(a: number, b: number): number {
  let [divisor, rest] = [a, b];
  while (rest > 0) [divisor, rest] = [rest, divisor % rest];
  return (a / divisor) * b;
}
