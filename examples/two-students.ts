// Distils two students at once from one teacher, on one device: npx tsx examples/two-students.ts --names names.txt --images photos
import { parseArgs } from 'node:util';
import { CategoryList, ClipTextEncoder, createStudent, Distiller, ImageCache, loadTeacher, openDevice, openImageFolder, TextualSemanticsBank } from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    names: { type: 'string', default: 'names.txt' },
    images: { type: 'string', default: 'photos' },
    clip: { type: 'string', default: 'Xenova/clip-vit-base-patch32' },
    output: { type: 'string', default: 'runs' },
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
  },
});

using device = await openDevice('auto');
await using encoder = await ClipTextEncoder.load(options.clip);
const tsb = await TextualSemanticsBank.build(await CategoryList.load(options.names), { encoder });
await using teacher = await loadTeacher(options.clip, { device });
using images = await ImageCache.build(await openImageFolder(options.images), {
  addon: device.addon, resolution: teacher.resolution, margin: 1.25, memoryLimitBytes: 4e9, spillFolder: '.', maxBrokenShare: 0.05,
});

/** Teacher, text bank, images and device are shared; each distiller has its own student, visual bank and run folder. The device takes their steps in turn. */
async function distil(name: string): Promise<void> {
  const student = createStudent(name, { device, embeddingSize: teacher.embeddingSize });
  using distiller = new Distiller({
    device, teacher, student, tsb,
    config: { output: `${options.output}/${name}`, overwrite: true, train: { epochs: Number(options.epochs), batchSize: Number(options.batch) } },
  });
  for await (const event of distiller.run(images)) {
    if (event.type === 'step' && event.logged) console.log(`${name}, step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}
await Promise.all(['mobilenet_v3_small', 'resnet18'].map(distil));
