import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import type { ConfigInput } from '../../lib/config.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import type { RunEvent } from '../../lib/train/events.js';
import { prepareRun, type PrepareOptions } from '../../lib/train/setup.js';
import { randomNumbers } from '../fixtures/random.js';
import { noteSkip, sharedPath } from '../shared.js';

/** The small CLIP that is part of the repository. */
export const tinyClip = fileURLToPath(new URL('../models/tiny-clip', import.meta.url));

/** Its image tower in ONNX, which is too large for the repository: in the working copy or the shared folder, if at all. */
export function visionOnnx(test: string): string | undefined {
  const here = join(tinyClip, 'onnx', 'vision_model.onnx');
  const file = existsSync(here) ? here : sharedPath('models', 'tiny-clip', 'onnx', 'vision_model.onnx');
  if (file === undefined) noteSkip(test, "the tiny CLIP's image tower in ONNX is absent");
  return file;
}

const shapes: Record<string, (x: number, y: number, r: number) => string> = {
  circle: (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"/>`,
  square: (x, y, r) => `<rect x="${x - r}" y="${y - r}" width="${2 * r}" height="${2 * r}"/>`,
  triangle: (x, y, r) => `<path d="M${x} ${y - r} L${x + r} ${y + r} L${x - r} ${y + r} Z"/>`,
  cross: (x, y, r) => `<path d="M${x - r} ${y} H${x + r} M${x} ${y - r} V${y + r}" stroke-width="${r / 2}" stroke="black"/>`,
};
export const shapeNames = Object.keys(shapes);

/** Draws a folder of class folders with `count` pictures of each shape; the same for the same seed. `telling`: each shape has its own colour, so that a few steps can learn it. */
export async function drawShapes(folder: string, { count, size = 64, seed = 1, telling = false }: { count: number; size?: number; seed?: number; telling?: boolean }): Promise<string> {
  const random = randomNumbers(seed);
  for (const [index, name] of shapeNames.entries()) {
    await mkdir(join(folder, name), { recursive: true });
    for (let i = 0; i < count; i++) {
      const at = () => size * (0.4 + 0.2 * random());
      const hue = () => (telling ? 90 * index + 40 * random() : Math.floor(360 * random()));
      const colour = () => `hsl(${hue()} 80% ${30 + Math.floor(40 * random())}%)`;
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}"><rect width="100%" height="100%" fill="${colour()}"/><g fill="${colour()}">${shapes[name]!(at(), at(), size * (0.15 + 0.15 * random()))}</g></svg>`;
      await writeFile(join(folder, name, `${i}.png`), await sharp(Buffer.from(svg)).png().toBuffer());
    }
  }
  return folder;
}

/** Files of a teacher that knows the shapes of `drawShapes(count: 8)` (embeddings near a direction for each) and of its text bank. */
export async function madeUpTeacher(stem: string, size = 16): Promise<{ teacher: string; bank: string; ids: string[] }> {
  const random = randomNumbers(5);
  const directions = shapeNames.map(() => Array.from({ length: size }, () => random() - 0.5));
  const bank = `${stem}-bank.safetensors`;
  await TextualSemanticsBank.fromEmbeddings(shapeNames, Float32Array.from(directions.flat()), { encoderId: 'made up' }).save(bank);
  const ids = shapeNames.flatMap((name) => Array.from({ length: 8 }, (_, i) => `${name}/${i}.png`));
  const rows = shapeNames.flatMap((_, shape) => Array.from({ length: 8 }, () => directions[shape]!.map((value) => value + 0.2 * (random() - 0.5))));
  const teacher = `${stem}-teacher.safetensors`;
  await PrecomputedTeacher.save(teacher, ids, Float32Array.from(rows.flat()), { resolution: 32 });
  return { teacher, bank, ids };
}

/** A small run: mobilenet_v2 at width 0.35 taught by the tiny CLIP. */
export function smallConfig(data: string, output: string, more: ConfigInput = {}): ConfigInput {
  return {
    device: 'cpu', seed: 3, method: 'lgd', names: shapeNames, templates: 'none', teacher: tinyClip, ...more, output,
    data: { train: data, margin: 1, ...more.data },
    student: { name: 'mobilenet_v2', widthMultiplier: 0.35, ...more.student },
    train: { epochs: 2, warmupEpochs: 1, batchSize: 8, learningRate: 0.03, ...more.train },
    checkpoint: { everyEpochs: 1, ...more.checkpoint },
    log: { everySteps: 1, ...more.log },
  };
}

export interface Outcome {
  events: RunEvent[];
  /** The student's weights after the last event. */
  weights: Record<string, Float32Array>;
}

/** Prepares and runs a configuration to its end. `onEvent` sees every event as it comes. */
export async function train(config: ConfigInput, { onEvent, ...options }: PrepareOptions & { onEvent?: (event: RunEvent) => void } = {}): Promise<Outcome> {
  const run = await prepareRun(config, options);
  try {
    const events: RunEvent[] = [];
    for await (const event of run.run({ signal: options.signal })) {
      events.push(event);
      onEvent?.(event);
    }
    return { events, weights: Object.fromEntries(Object.entries(run.student.weights).map(([name, { data }]) => [name, data])) };
  } finally {
    await run.dispose();
  }
}

export function ofType<Type extends RunEvent['type']>(events: readonly RunEvent[], type: Type): Extract<RunEvent, { type: Type }>[] {
  return events.filter((event): event is Extract<RunEvent, { type: Type }> => event.type === type);
}

/** Are two arrays equal to the bit? (Vitest's own comparison takes seconds for a student's weights.) */
export function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return bytes(a).equals(bytes(b));
}
