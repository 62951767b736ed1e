/** Options of small runs from the command line. */
import { shapeNames, tinyClip } from '../fixtures/tiny.js';

export const common = ['--device', 'cpu', '--teacher', tinyClip, '--offline'];
export const task = [
  ...common,
  '--names',
  JSON.stringify(shapeNames),
  '--templates',
  'none',
  '--width-multiplier',
  '0.35',
  '--batch-size',
  '8',
  '--epochs',
  '2',
  '--warmup-epochs',
  '1',
  '--margin',
  '1',
  '--log.every-steps',
  '1',
];
