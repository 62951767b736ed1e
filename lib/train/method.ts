/** What each method compares embeddings over, and which method `auto` is. */
import type { SemanticMetrics, SemanticOptions } from '../addon/native.js';
import { fewNames, type ChosenMethod, type Config, type Method } from '../config/config.js';
import { counted } from '../counted.js';

/** The method that a run with so many category names follows. */
export function chooseMethod(method: Method, names: number): ChosenMethod {
  if (method !== 'auto') return method;
  return names < fewNames ? 'seed' : 'lgd';
}

/** What a run says of a method that `auto` chose for so many names. */
export function describeChoice(method: ChosenMethod, names: number): string {
  return `method ${method}, by auto for ${counted(names, 'name')}${method === 'seed' ? '; they take no part in its loss (--method lgd takes them in)' : ''}`;
}

type Anchors = Pick<SemanticOptions, 'useTextual' | 'useVisual' | 'feature' | 'alpha'> &
  Required<Pick<SemanticOptions, 'queueSize'>>;

/** Which banks take part in the loss, and the weight of the visual part. */
const anchors: Record<ChosenMethod, (loss: Config['loss']) => Anchors> = {
  lgd: ({ alpha }) => ({ useTextual: true, useVisual: true, alpha, queueSize: 0 }),
  text: () => ({ useTextual: true, useVisual: false, alpha: 0, queueSize: 0 }),
  visual: () => ({ useTextual: false, useVisual: true, alpha: 1, queueSize: 0 }),
  seed: ({ queueSize }) => ({ useTextual: false, useVisual: false, alpha: 1, queueSize }),
  hybrid: ({ queueSize }) => ({ useTextual: false, useVisual: true, alpha: 1, queueSize }),
  combined: ({ alpha, queueSize }) => ({ useTextual: true, useVisual: true, alpha, queueSize }),
  feature: () => ({ useTextual: false, useVisual: false, feature: true, queueSize: 0 }),
};

/** Numbers of a step that are of a part of the loss: 0 where the method has no such part. */
export const partMetrics = [
  'lossVisual',
  'lossTextual',
  'klVisual',
  'klTextual',
  'entropyVisual',
  'entropyTextual',
  'ownMass',
] as const satisfies readonly (keyof SemanticMetrics)[];

/** Is it the name of a method, and not `auto` or that of another version? */
export function isMethod(name: string): name is ChosenMethod {
  return Object.hasOwn(anchors, name);
}

/** What the semantic head is made with. */
export function anchorsOf(method: ChosenMethod, loss: Config['loss']): Anchors {
  return anchors[method](loss);
}
