/** Augmentation on CUDA: torchvision's results, and the CPU's views of the same draws. */
import type { NativeAugmentRecipe } from '../../lib/addon/native.js';
import type { Device } from '../../lib/device.js';
import { augmentBatch, readAugmentFixture, storeOf } from '../native/augment-fixture.js';
import { digits, sameBits, wholeError, type Report } from './report.js';

const moco: NativeAugmentRecipe = { mean: [0.48, 0.46, 0.41], std: [0.27, 0.26, 0.28] };

export async function checkAugmentation(report: Report, cpu: Device, cuda: Device): Promise<void> {
  const { images, cases } = await readAugmentFixture();
  const stores = new Map([cpu, cuda].map((device) => [device, storeOf(device.addon, images)]));
  let [worst, bad] = [0, 0];
  for (const entry of cases) {
    const error = wholeError([await augmentBatch(cuda, stores.get(cuda)!, entry)], [entry.expected]);
    worst = Math.max(worst, error);
    if (!(error < 1e-3)) bad++;
  }
  report.check('augment', `${cases.length} cases as torchvision`, `worst ${digits(worst)}`, bad === 0);

  const [count, side] = report.small ? [6, 24] : [64, 224];
  const batch = {
    recipe: moco,
    height: side,
    width: side,
    seed: 5,
    epoch: 3,
    images: Array.from({ length: count }, (_, i) => i % images.length),
    drawIds: Array.from({ length: count }, (_, i) => 100 + i),
  };
  const expected = await augmentBatch(cpu, stores.get(cpu)!, batch);
  for (const [name, bfloat16, limit] of [
    ['float32', false, 2e-6],
    ['bfloat16', true, 4e-3],
  ] as const) {
    const [found, again] = [
      await augmentBatch(cuda, stores.get(cuda)!, batch, bfloat16),
      await augmentBatch(cuda, stores.get(cuda)!, batch, bfloat16),
    ];
    const error = wholeError([found], [expected]);
    report.check(
      'augment',
      `the recipe at ${side} px ${name} as on the CPU`,
      `${digits(error)}, ${sameBits(found, again) ? 'the same bits twice' : 'other bits the second time'}`,
      error < limit && sameBits(found, again),
    );
  }
  for (const [device, store] of stores) device.addon.release(store);
}
