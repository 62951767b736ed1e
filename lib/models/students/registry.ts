import { LgdError } from '../../errors.js';
import { suggestion } from '../../text/spelling.js';
import { convnextAtto, convnextFemto, convnextNano, convnextPico, convnextTiny } from './convnext.js';
import type { StudentDefinition } from './definition.js';
import { efficientnetB0, efficientnetB1, efficientnetB2, efficientnetB3 } from './efficientnet.js';
import { efficientnetLite0 } from './efficientnet_lite.js';
import { mobilenetV2 } from './mobilenet_v2.js';
import { mobilenetV3Large, mobilenetV3Small } from './mobilenet_v3.js';
import { mobilenetV4ConvMedium, mobilenetV4ConvSmall } from './mobilenet_v4.js';
import { resnet18, resnet34, resnet50 } from './resnet.js';
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

/** @throws LgdError BAD_OPTION with the nearest name */
export function findStudent(name: string): StudentDefinition {
  const found = definitions.find((definition) => definition.name === name);
  if (found) return found;
  if (typeof name === 'string' && name.includes(',')) {
    throw new LgdError('BAD_OPTION', 'only distill takes several students.', {
      option: 'student',
      found: name,
      allowed: listStudents().join(', '),
      mend: 'Give one of them (student.name)',
    });
  }
  const nearest = typeof name === 'string' ? suggestion(name, listStudents()) : undefined;
  const own = 'A network of your own is known only to the program that builds it (new Student), and by its file';
  throw new LgdError('BAD_OPTION', 'there is no student of this name.', {
    option: 'student',
    found: name,
    allowed: listStudents().join(', '),
    mend: nearest === undefined ? own : `${nearest} ${own}`,
  });
}
