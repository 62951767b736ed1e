/**
 * Makes and drops every kind of object that holds native memory, over and over, in a process of its own: node
 * --expose-gc child.mjs dispose|forget <cycles>. Prints a line of JSON: the memory after a third of the cycles, and
 * after all, and the most that the process occupied.
 */
import { setImmediate } from 'node:timers/promises';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { openDevice } from '../../lib/device.js';
import { createStudent, Encoder, initialWeights, loadTeacher, studentGraph } from '../../lib/models/index.js';
import { bankLoss } from '../../lib/semantic/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { plainPicture } from '../fixtures/tiny.js';

const [, , mode, count, teacherFile] = process.argv as [string, string, 'dispose' | 'forget', string, string];
const cycles = Number(count);
const names = ['circle', 'square'];
const [name, widthMultiplier] = ['mobilenet_v3_small', 0.1] as const;
// drawn once: it would take most of the time
const weights = initialWeights(studentGraph(name, { embeddingSize: 16, widthMultiplier }), 0);
const picture = await plainPicture('teal', 64);

async function cycle(): Promise<void> {
  const device = await openDevice('cpu', { threads: 2 });
  const teacher = await loadTeacher(teacherFile, { device });
  const { embeddingSize } = teacher;
  const tsb = TextualSemanticsBank.fromEmbeddings(
    names,
    Float32Array.from({ length: names.length * embeddingSize }, (_, i) => Math.sin(i + 1)),
    { encoderId: 'made up' },
  );
  const student = createStudent(name, { device, embeddingSize, widthMultiplier });
  student.load(weights);
  const encoder = new Encoder(student.compile({ batch: 2, resolution: 32 }));
  const distiller = new Distiller({
    device,
    teacher,
    student,
    tsb,
    config: { method: 'lgd', data: { resolution: 32 }, train: { batchSize: 2 } },
  });
  const cache = await ImageCache.build(
    imagesFromBuffers([
      { id: 'circle/0.png', bytes: picture },
      { id: 'square/0.png', bytes: picture },
    ]),
    {
      device,
      resolution: 32,
      margin: 1,
      memoryLimitBytes: 1e9,
      spillFolder: '.',
      maxBrokenShare: 0,
    },
  );
  const batch = {
    dataset: cache,
    images: Int32Array.of(0, 1),
    drawIds: Int32Array.of(0, 1),
    seed: 0,
    epoch: 0,
    step: 0,
  };
  const ticket = await distiller.queueStep([batch], { step: 0, learningRate: 0.01 });
  await distiller.readMetrics(ticket);
  await bankLoss(
    {
      student: tsb.data,
      teacher: tsb.data,
      textual: tsb.data,
      dimension: embeddingSize,
      alpha: 0,
      studentTemperature: 0.2,
      teacherTemperature: 0.1,
    },
    { device },
  );
  if (mode === 'dispose') {
    for (const object of [cache, distiller, encoder, device]) object.dispose();
    await teacher.dispose();
  }
}

/** In MiB, when everything that can be collected has been. */
async function memory(): Promise<{ resident: number; heap: number; external: number }> {
  for (let i = 0; i < 4; i++) {
    globalThis.gc!();
    await setImmediate(); // finalizers run between turns
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  return { resident: rss / 2 ** 20, heap: heapUsed / 2 ** 20, external: external / 2 ** 20 };
}

let early: Awaited<ReturnType<typeof memory>> | undefined;
let most = 0;
for (let i = 1; i <= cycles; i++) {
  await cycle();
  most = Math.max(most, process.memoryUsage.rss() / 2 ** 20);
  if (i === Math.floor(cycles / 3)) early = await memory();
}
process.stdout.write(`${JSON.stringify({ early, late: await memory(), most })}\n`);
