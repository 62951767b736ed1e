// Distils two students side by side, from one pass of the teacher: npx tsx examples/two-students.ts --names names.txt
// --images photos
import { parseArgs } from 'node:util';
import {
  CategoryList,
  ClipTextEncoder,
  createStudent,
  Distiller,
  ImageCache,
  loadTeacher,
  openDevice,
  openImageFolder,
  TextualSemanticsBank,
} from 'lgdistill';

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
  device,
  resolution: teacher.resolution,
});

// Both see the same views and one pass of the teacher; each has its own visual bank, and its own run folder below the
// output, with the bits it would have alone.
const students = ['mobilenet_v3_small', 'resnet18'].map((name) =>
  createStudent(name, { device, embeddingSize: teacher.embeddingSize }),
);
using distiller = new Distiller({
  device,
  teacher,
  student: students,
  tsb,
  images: images.length,
  config: {
    output: options.output,
    overwrite: true,
    train: { epochs: Number(options.epochs), batchSize: Number(options.batch) },
  },
});
for await (const event of distiller.run(images)) {
  if (event.type === 'step' && event.logged)
    console.log(`${event.studentName}, step ${event.step}: loss ${event.loss.toFixed(3)}`);
}
