/** What tests of stopped and resumed runs share: small images, runs that take little time, and how two are compared. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, sameBits, shapeNames, smallConfig, train } from '../fixtures/tiny.js';

/** A folder with images for one test file, made before its tests. */
export class ResumedRuns {
  readonly folder = temporaryFolder();
  /** Images to train on, of 64 px, and labelled ones. */
  data = '';
  labelled = '';
  /** What {@link quick} trains with. */
  small = { data: '', teacher: '', bank: '' };
  #runs = 0;
  #unbroken: Promise<string> | undefined;

  constructor() {
    beforeAll(async () => {
      this.data = await drawShapes(join(this.folder, 'train'), { count: 8 });
      this.labelled = await drawShapes(join(this.folder, 'test'), { count: 2, seed: 2 });
      const { teacher, bank } = await madeUpTeacher(join(this.folder, 'made-up'));
      await knowAlso(teacher, 'circle/9.png');
      this.small = { teacher, bank, data: await drawShapes(join(this.folder, 'small'), { count: 8, size: 32 }) };
    });
  }

  /** A new run folder. */
  readonly output = (): string => join(this.folder, `run-${this.#runs++}`);

  /** No teacher to compute: for what is tried often. */
  readonly quick = (path: string, more: ConfigInput = {}): ConfigInput => ({
    ...smallConfig(this.small.data, path, {
      teacher: this.small.teacher,
      bank: this.small.bank,
      ...more,
      train: { epochs: 4, ...more.train },
    }),
    names: undefined,
  });

  /** The folder of {@link quick}'s unbroken run, made by the first that asks: to compare with, and not to change. */
  readonly unbrokenRun = (): Promise<string> =>
    (this.#unbroken ??= (async () => {
      const path = this.output();
      await train(this.quick(path));
      return path;
    })());
}

/** Adds an image to a teacher of embeddings. */
async function knowAlso(teacher: string, id: string): Promise<void> {
  const known = await PrecomputedTeacher.load(teacher);
  const ids = shapeNames.flatMap((name) => Array.from({ length: 8 }, (_, i) => `${name}/${i}.png`));
  const rows = Float32Array.of(...known.lookup(ids), ...known.lookup(ids.slice(0, 1)));
  await PrecomputedTeacher.save(teacher, [...ids, id], rows, { resolution: 32 });
}

/**
 * Everything a run ends with must be the same to the bit: model, momentum, banks, queue, sampler, losses; and the
 * metrics but for their rates.
 */
export async function expectSame(broken: string, whole: string): Promise<void> {
  const last = (run: string, file: string) => readFile(join(run, 'checkpoints', 'last', file));
  const [a, b] = await Promise.all(
    [broken, whole].map((run) => readSafetensors(join(run, 'checkpoints', 'last', 'model.safetensors'))),
  );
  for (const [name, { data: values }] of b!.tensors)
    expect(sameBits(values as Float32Array, a!.tensors.get(name)!.data as Float32Array), name).toBe(true);
  for (const file of ['model.safetensors', 'state.safetensors'])
    expect((await last(broken, file)).equals(await last(whole, file)), file).toBe(true);
  expect(await metricsOf(broken)).toEqual(await metricsOf(whole));
}

async function metricsOf(run: string): Promise<unknown[]> {
  const lines = (await readFile(join(run, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  return lines.map((line) => {
    const { imagesPerSecond, dataWait, teacherWait, seconds, time, ...rest } = JSON.parse(line) as Record<
      string,
      unknown
    >;
    expect([imagesPerSecond ?? seconds, dataWait ?? 0, teacherWait ?? 0, time].every(Number.isFinite)).toBe(true);
    return rest;
  });
}

/** Trains and stops after a step, as Ctrl-C does. */
export async function trainAndStop(config: ConfigInput, step: number, resume?: string): Promise<void> {
  const controller = new AbortController();
  const { events } = await train(config, {
    resume,
    signal: controller.signal,
    onEvent: (event) => event.type === 'step' && event.step >= step && controller.abort(),
  });
  expect(events.at(-1)!.type).toBe('interrupted');
}
