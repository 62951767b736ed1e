// What it saves to run the teacher once: for several students in one step, and not at all where its embeddings are
// kept. A teacher of CLIP RN50's size with start weights; every kind of step in turn, in one process.
//   node bench/teacher-once.mjs [--images folder] [--students mobilenet_v3_large,resnet18] [--batch 4] [--rounds 5]
//     [--device auto]
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  BatchPlan,
  createStudent,
  Distiller,
  ImageCache,
  initialWeights,
  loadTeacher,
  modifiedResNet,
  openDevice,
  openImageFolder,
  parseConfig,
  TeacherViewCache,
  TextualSemanticsBank,
  writeSafetensors,
} from '../dist/index.js';

const { values: options } = parseArgs({
  options: {
    images: { type: 'string', default: 'photos' },
    students: { type: 'string', default: 'mobilenet_v3_large,resnet18' },
    batch: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
    device: { type: 'string', default: 'auto' },
  },
});
const [layers, width, heads, embeddingSize, resolution] = [[3, 4, 6, 3], 64, 32, 1024, 224];
const folder = await mkdtemp(join(tmpdir(), 'lgdistill-bench-'));
await writeFile(
  join(folder, 'config.json'),
  JSON.stringify({ vision_config: { layers, width, heads, output_dim: embeddingSize, image_size: resolution } }),
);
await writeSafetensors(
  join(folder, 'visual.safetensors'),
  Object.entries(
    initialWeights(modifiedResNet({ layers, width, heads, outputDim: embeddingSize, imageSize: resolution }), 1),
  ),
  {},
);

const device = await openDevice(options.device);
const teacher = await loadTeacher(folder, { device });
const batchSize = Number(options.batch);
const source = await openImageFolder(options.images);
const dataset = await ImageCache.build(
  { ...source, ids: source.ids.slice(0, batchSize) },
  { device, resolution, margin: 1, memoryLimitBytes: 4e9, spillFolder: folder, maxBrokenShare: 0 },
);
const rows = Float32Array.from({ length: 100 * embeddingSize }, (_, i) => Math.sin(i * i));
const tsb = TextualSemanticsBank.fromEmbeddings(
  Array.from({ length: 100 }, (_, i) => `name ${i}`),
  rows,
  { encoderId: 'made up' },
);
const config = parseConfig({ output: folder, method: 'lgd', train: { batchSize }, teacherCache: { views: 1 } });
const precision = device.info.precisions[0];
const cache = await TeacherViewCache.open({
  device,
  teacher,
  config,
  precision,
  dataset,
  images: { length: dataset.length, sourceIndex: dataset.sourceIndex, hash: '' },
});
const batches = [{ ...new BatchPlan(dataset, { batchSize, seed: 0 }).next(), dataset }];

const names = options.students.split(',');
const make = (students) =>
  new Distiller({
    device,
    teacher,
    student: students.map((name) => createStudent(name, { device, embeddingSize, resolution })),
    tsb,
    config,
  });
const kinds = [...names.map((name) => [name, [name]]), [names.join(' + '), names]].map(([label, students]) => ({
  label,
  distiller: make(students),
  live: [],
  cached: [],
}));
let step = 0;
async function time(distiller, views) {
  distiller.useViewCache(views);
  const from = performance.now();
  await distiller.queueStep(batches, { step: step++, learningRate: 1e-6 });
  await device.synchronize();
  return performance.now() - from;
}
for (let round = 0; round <= Number(options.rounds); round++) {
  for (const { distiller, live, cached } of kinds) {
    const times = [await time(distiller, undefined), await time(distiller, cache)];
    // the first fills the cache and touches memory
    if (round > 0) [live, cached].forEach((list, i) => list.push(times[i]));
  }
}
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
console.log(
  `${device.info.name}, batch ${batchSize}, ${resolution} px, ${options.rounds} rounds, medians; a view takes ${(cache.bytes - 4096) / dataset.length} bytes an image`,
);
for (const { label, live, cached } of kinds)
  console.log(
    `${label}: ${median(live).toFixed(0)} ms a step, ${median(cached).toFixed(0)} ms with cached embeddings: ${(median(live) / median(cached)).toFixed(2)} times as fast`,
  );
const alone = kinds.slice(0, -1).reduce((sum, { live }) => sum + median(live), 0);
console.log(`together ${(alone / median(kinds.at(-1).live)).toFixed(2)} times as fast as one after the other`);
cache.dispose();
for (const { distiller } of kinds) distiller.dispose();
dataset.dispose();
await teacher.dispose();
device.dispose();
await rm(folder, { recursive: true });
