/** What tests of a distiller's steps share: the tiny CLIP, and drawings with names to train on. */
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { openDevice, type Device } from '../../lib/device.js';
import { loadTeacher, type AnyTeacher } from '../../lib/models/index.js';
import { drawShapes, shapeNames, smallCache, tinyClip } from '../fixtures/tiny.js';

/** Names, and images of a batch. */
export const [K, B] = [shapeNames.length, 4];
export let device: Device;
export let teacher: AnyTeacher;
export let dataset: ImageCache;
export let tsb: TextualSemanticsBank;

/** Makes them before the tests of a file. @param folder a temporary one */
export function stepParts(folder: string): void {
  beforeAll(async () => {
    device = await openDevice('cpu');
    teacher = await loadTeacher(tinyClip, { device });
    const source = await openImageFolder(await drawShapes(join(folder, 'data'), { count: 4 }));
    dataset = await ImageCache.build(source, smallCache(device, folder, 64));
    tsb = TextualSemanticsBank.fromEmbeddings(
      shapeNames,
      Float32Array.from({ length: K * 256 }, (_, i) => Math.sin(1 + i * i)),
      { encoderId: 'made up' },
    );
  });
  afterAll(async () => {
    dataset.dispose();
    await teacher.dispose();
    device.dispose();
  });
}
