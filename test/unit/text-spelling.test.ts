import { expect, test } from 'vitest';
import { listStudents } from '../../lib/models/index.js';
import { nearestNames, suggestion } from '../../lib/text/spelling.js';

const flags = [
  '--epochs',
  '--batch-size',
  '--train.batch-size',
  '--learning-rate',
  '--train.learning-rate',
  '--weight-decay',
  '--log.every-steps',
];

test.each([
  ['mobilenetv2', ['mobilenet_v2']],
  ['MobileNet-V3-Small', ['mobilenet_v3_small']],
  ['mobilenetv3', ['mobilenet_v3_small', 'mobilenet_v3_large']],
  ['mobilnet_v2', ['mobilenet_v2']],
  ['resnet101', ['resnet18', 'resnet50']],
  ['efficientnet_b7', ['efficientnet_b0', 'efficientnet_b1', 'efficientnet_b2', 'efficientnet_b3']],
  ['vit', ['vit_tiny_patch16_224', 'vit_small_patch16_224', 'vit_small_patch32_224']],
  ['vit_tiny', ['vit_tiny_patch16_224']],
  ['swin', []],
])('of students, %s is near to %j', (word, near) => {
  expect(nearestNames(word, listStudents())).toEqual(near);
});

test.each([
  ['--lr', ['--learning-rate']],
  ['--wd', ['--weight-decay']],
  ['--batchsize', ['--batch-size']],
  ['--batch', ['--batch-size']],
  ['--lerning-rate', ['--learning-rate']],
  ['--epoch', ['--epochs']],
  ['--epohcs', ['--epochs']],
  ['--e', []],
  ['--nothing-like-it', []],
])('of flags, %s is near to %j', (word, near) => {
  expect(nearestNames(word, flags)).toEqual(near);
});

test('neighbours that changed places are one slip', () => {
  expect(nearestNames('trian', ['train', 'data', 'tria5'])).toEqual(['train', 'tria5']);
  expect(nearestNames('abc', ['cab'])).toEqual([]);
});

test('of equals several are named, of many four', () => {
  expect(suggestion('mobilenetv3', listStudents())).toBe('Did you mean mobilenet_v3_small or mobilenet_v3_large?');
  expect(suggestion('resnet', ['resnet1', 'resnet2', 'resnet3', 'resnet4', 'resnet5'])).toBe(
    'Did you mean resnet1, resnet2, resnet3 or resnet4?',
  );
  expect(suggestion('swin', listStudents())).toBeUndefined();
  expect(suggestion('vit', [])).toBeUndefined();
});

test('what is longer than any slip is not measured', () => {
  const from = performance.now();
  expect(nearestNames('x'.repeat(10_000_000), flags)).toEqual([]);
  expect(performance.now() - from).toBeLessThan(2000);
});
