// Distils a student from your own images, with a CLIP from the hub as teacher: npx tsx examples/own-images.ts --names
// names.txt --images photos
import { parseArgs } from 'node:util';
import {
  CategoryList,
  ClipTextEncoder,
  createStudent,
  Distiller,
  exportStudent,
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
    student: { type: 'string', default: 'mobilenet_v2' },
    output: { type: 'string', default: 'runs/own-images' },
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
  },
});

using device = await openDevice('auto');
console.log(`${device.info.name}: ${device.info.reason}`);

// The names become directions in the teacher's space.
await using encoder = await ClipTextEncoder.load(options.clip);
const names = await CategoryList.load(options.names);
const tsb = await TextualSemanticsBank.build(names, { encoder });

// Images are decoded once; training crops and augments them natively, another view in each epoch.
await using teacher = await loadTeacher(options.clip, { device });
using images = await ImageCache.build(await openImageFolder(options.images), {
  device,
  resolution: teacher.resolution,
});
console.log(`${tsb.size} names, ${images.length} images, ${images.broken.length} broken`);

const student = createStudent(options.student, {
  device,
  embeddingSize: teacher.embeddingSize,
  resolution: teacher.resolution,
});
using distiller = new Distiller({
  device,
  teacher,
  student,
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
    console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}, ${event.imagesPerSecond.toFixed(0)} images/s`);
}

const { file, bank } = await exportStudent({
  from: options.output,
  to: `${options.output}/student.safetensors`,
  bank: `${options.output}/classifier.safetensors`,
});
console.log(`written: ${file}, ${bank}`);
