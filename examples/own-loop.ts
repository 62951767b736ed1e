// A training loop of your own around the distiller's step, with early stopping and a checkpoint to go on from; then the
// student names some images: npx tsx examples/own-loop.ts --names names.txt --images photos
import { existsSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { deserialize, serialize } from 'node:v8';
import { parseArgs } from 'node:util';
import {
  BatchPlan,
  CategoryList,
  ClipTextEncoder,
  createStudent,
  Distiller,
  Encoder,
  ImageCache,
  loadTeacher,
  makeSchedule,
  openDevice,
  openImageFolder,
  readViews,
  TextualSemanticsBank,
  type BatchPlanState,
  type DistillerState,
  type StepTicket,
} from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    names: { type: 'string', default: 'names.txt' },
    images: { type: 'string', default: 'photos' },
    clip: { type: 'string', default: 'Xenova/clip-vit-base-patch32' },
    student: { type: 'string', default: 'mobilenet_v2' },
    checkpoint: { type: 'string', default: 'own-loop.checkpoint' },
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
    steps: { type: 'string', default: 'Infinity' }, // ends earlier, to be gone on with
    patience: { type: 'string', default: '5' }, // epochs without a lower mean loss before it stops
  },
});
const [epochs, batchSize] = [Number(options.epochs), Number(options.batch)];

using device = await openDevice('auto');
await using encoder = await ClipTextEncoder.load(options.clip);
const tsb = await TextualSemanticsBank.build(await CategoryList.load(options.names), { encoder });
await using teacher = await loadTeacher(options.clip, { device });
const { resolution, mean, std, embeddingSize } = teacher;
using images = await ImageCache.build(await openImageFolder(options.images), { device, resolution });

const student = createStudent(options.student, { device, embeddingSize, resolution });
using distiller = new Distiller({
  device,
  teacher,
  student,
  tsb,
  images: images.length,
  config: { method: 'lgd', train: { epochs, batchSize } },
});
const { learningRate } = distiller.config.train; // follows the number of images
const plan = new BatchPlan(images, { batchSize, seed: 0 });
const schedule = makeSchedule({
  learningRate,
  batchSize,
  accumulate: 1,
  batchesPerEpoch: plan.stepsPerEpoch,
  epochs,
  warmupEpochs: Math.min(5, epochs / 10),
});

interface Checkpoint {
  step: number;
  best: { loss: number; epoch: number };
  plan: BatchPlanState;
  distiller: DistillerState;
}
let step = 0;
let best = { loss: Infinity, epoch: 0 };
if (existsSync(options.checkpoint)) {
  const found = deserialize(await readFile(options.checkpoint)) as Checkpoint;
  plan.restore(found.plan);
  distiller.restore(found.distiller);
  ({ step, best } = found);
  console.log(`going on from step ${step}`);
}

/** The file has its name once it is whole. */
async function save(): Promise<void> {
  const checkpoint: Checkpoint = { step, best, plan: plan.state(), distiller: await distiller.state() };
  await writeFile(`${options.checkpoint}.part`, serialize(checkpoint));
  await rename(`${options.checkpoint}.part`, options.checkpoint);
}

const lastStep = Math.min(schedule.totalSteps, Number(options.steps));
let losses: number[] = [];
let queued: StepTicket | undefined;
const settle = async () => {
  if (queued !== undefined) losses.push((await distiller.readMetrics(queued)).loss);
};
while (step < lastStep) {
  const ticket = await distiller.queueStep([{ ...plan.next(), dataset: images }], {
    step,
    learningRate: schedule.learningRate(step),
  });
  await settle(); // the numbers of the step before, while the device is at this one
  queued = ticket;
  step++;
  if (step % plan.stepsPerEpoch !== 0 && step !== lastStep) continue;
  await settle();
  queued = undefined;
  const [epoch, loss] = [step / plan.stepsPerEpoch, losses.reduce((sum, value) => sum + value, 0) / losses.length];
  console.log(`step ${step}: loss ${loss.toFixed(4)}`);
  losses = [];
  if (loss < best.loss) best = { loss, epoch };
  await save();
  if (epoch - best.epoch >= Number(options.patience)) break;
}

// The trained weights are the distiller's until the student is given them. Compiled without training, an encoder is
// smaller and faster.
student.load((await distiller.state()).weights);
using seen = new Encoder(student.compile({ batch: Math.min(8, images.length), resolution, training: false }));
const indices = Int32Array.from({ length: seen.batch }, (_, i) => i);
const embeddings = await seen.forward(
  await readViews(images, { images: indices }, { device, resolution, mean, std, augment: false }),
);
for (const i of indices) {
  const row = embeddings.subarray(i * embeddingSize, (i + 1) * embeddingSize);
  const cosines = tsb.names.map(
    (_, k) => row.reduce((sum, value, d) => sum + value * tsb.data[k * embeddingSize + d]!, 0) / Math.hypot(...row),
  );
  console.log(`${images.ids[i]}: ${tsb.names[cosines.indexOf(Math.max(...cosines))]}`);
}
