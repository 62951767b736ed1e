/**
 * Calls of the CUDA runtime fail under the functions that take arrays: whoever called hears of it, and what is used
 * again gives the same bits or says why not.
 */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { ImageCache } from '../../lib/data/cache.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { readViews } from '../../lib/data/views.js';
import { openDevice, type Device } from '../../lib/device.js';
import type { LgdError } from '../../lib/errors.js';
import {
  CompiledEncoder,
  createEncoder,
  Encoder,
  GraphBuilder,
  initialWeights,
  loadTeacher,
  type AnyTeacher,
  type Precision,
} from '../../lib/models/index.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { isWanted } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNormal } from '../fixtures/random.js';
import { plainPicture } from '../fixtures/tiny.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { buildEmulatedAddon } from '../native/emulated.js';
import { withFault } from './failing-gpu-fixture.js';

const folder = temporaryFolder();
const calls = join(folder, 'calls');
const [batch, resolution, dimension, names] = [2, 16, 16, 10];
const rows = (count: number, seed: number) => randomNormal(count * dimension, seed);
const [student, teacher, textual, visual] = [rows(batch, 1), rows(batch, 2), rows(names, 3), rows(names, 4)];
const pixels = randomNormal(batch * 3 * resolution ** 2, 5);

function smallGraph() {
  const g = new GraphBuilder('small');
  const stem = g.convNorm(g.images, 'stem', { channels: 8, kernel: 3, stride: 2 }, 'relu');
  const depthwise = g.convNorm(stem, 'depthwise', { channels: 8, kernel: 3, stride: 1, groups: 8 }, 'relu');
  return g.finish(g.linear(g.globalPool(depthwise), 'head', { features: dimension }));
}
const graph = smallGraph();
const weights = initialWeights(graph, 1);
const atRest = Object.fromEntries(
  graph.parameters
    .filter(({ trainable }) => trainable)
    .map(({ name, shape }) => [name, { shape: [...shape], data: new Float32Array(weights[name]!.data.length) }]),
);

/** An encoder whose weights nobody has waited for. */
function encoderOn(device: Device, precision: Precision): Encoder {
  const compiled = new CompiledEncoder(device, graph, { batch, resolution, precision });
  compiled.load(weights);
  return new Encoder(compiled);
}

interface Use<Thing> {
  open: (device: Device) => Thing | Promise<Thing>;
  /** Where a call fails; every number that it came to. */
  use: (thing: Thing, device: Device) => Promise<unknown>;
  /** What it left, read without a fault. */
  state?: (thing: Thing) => Promise<unknown>;
  close?: (thing: Thing) => unknown;
}

const none = { open: () => undefined };
let teacherFolder = '';
const onEncoder = (use: (encoder: Encoder) => Promise<unknown>, precision: Precision = 'float32'): Use<Encoder> => ({
  open: (device) => encoderOn(device, precision),
  use,
  state: (encoder) => encoder.state(),
  close: (encoder) => encoder.dispose(),
});
const uses = {
  'an encoder that is created': {
    ...none,
    use: async (_, device) => {
      using encoder = await createEncoder('mobilenet_v3_small', {
        device,
        widthMultiplier: 0.1,
        embeddingSize: 4,
        resolution: 32,
        training: false,
      });
      await device.synchronize().catch(() => undefined); // somebody else waits, too
      return encoder.state();
    },
  } satisfies Use<undefined>,
  'the state of an encoder': onEncoder((encoder) => encoder.state()),
  'a pass': onEncoder((encoder) => encoder.forward(pixels)),
  'a training pass': onEncoder((encoder) => encoder.forward(pixels, { training: true })),
  'a training pass in bfloat16': onEncoder((encoder) => encoder.forward(pixels, { training: true }), 'bfloat16'),
  'a step from given weights': onEncoder(async (encoder) => {
    encoder.load(weights);
    encoder.compiled.loadOptimizerState({ momentum: atRest, steps: 0 });
    const output = await encoder.forward(pixels, { training: true });
    const gradients = await encoder.backward(student);
    await encoder.optimizerStep({ learningRate: 0.1 });
    return [output, gradients, await encoder.optimizerState()];
  }),
  'a teacher': {
    open: (device) => loadTeacher(teacherFolder, { device }),
    use: (one) => (one as Extract<AnyTeacher, { kind: 'native' }>).embed(randomNormal(3 * 32 ** 2, 6), 1),
    close: (one) => one.dispose(),
  } satisfies Use<AnyTeacher>,
  'the loss': {
    ...none,
    use: (_, device) =>
      bankLoss(
        { student, teacher, textual, visual, dimension, alpha: 0.5, studentTemperature: 0.2, teacherTemperature: 0.1 },
        { device },
      ),
  } satisfies Use<undefined>,
  'the update of a bank': {
    ...none,
    use: (_, device) =>
      bankUpdate({ teacher, textual, visual, seen: new Uint8Array(names), dimension, momentum: 0.9 }, { device }),
  } satisfies Use<undefined>,
  views: {
    open: async (device) =>
      ImageCache.build(imagesFromBuffers([{ id: 'a', bytes: await plainPicture('teal') }]), {
        device,
        resolution: 40,
        margin: 1,
        spillFolder: folder,
      }),
    use: (images, device) =>
      readViews(
        images,
        { images: Int32Array.of(0), drawIds: Int32Array.of(0), seed: 1, epoch: 0 },
        { device, resolution, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
      ),
    close: (images) => images.dispose(),
  } satisfies Use<ImageCache>,
} as Record<string, Use<unknown>>;

/** So many of the calls of a use fail, one after the other, spread over all of them. */
const tries = 24;
/** What a later use may say: that weights are not whole (DEVICE_ERROR), or that no training pass came before. */
const refusals = ['DEVICE_ERROR', 'BAD_OPTION'];

describe.each(isWanted('cuda-emulated', 'failing calls of CUDA beneath arrays') ? Object.entries(uses) : [])(
  'a call of the CUDA runtime that fails under %s',
  (_, { open, use, state = async () => Promise.resolve(undefined), close = () => undefined }) => {
    beforeAll(async () => {
      buildEmulatedAddon();
      teacherFolder = await writeTeacher(join(folder, 'teacher'), towers.tiny, 32);
    }, 1_200_000);

    it('is told to the caller, and the next use has the same bits or says why it cannot', async () => {
      using device = await openDevice('cuda-emulated', { threads: 1 });
      const things: unknown[] = [];
      const attempt = async (): Promise<unknown> => {
        things.push(await open(device));
        return use(things.at(-1), device);
      };
      const end = async () => {
        for (const thing of things.splice(0)) await close(thing);
        await device.synchronize();
      };
      await attempt(); // asks what is asked once
      await end();
      const { result, calls: made } = await withFault(calls, undefined, attempt, true);
      const expected = { result, state: await state(things[0]) };
      await end();
      const { allocatedBytes } = device.info;
      let told = 0;
      for (let number = 1; number <= made.length; number += Math.ceil(made.length / tries)) {
        const {
          result: faulty,
          error,
          calls: seen,
        } = await withFault(calls, ['*', number, 'cudaErrorMemoryAllocation'], attempt, true);
        const what = `call ${number}, ${seen.find(([, failed]) => failed !== undefined)?.[0]}`;
        if (error !== undefined) {
          told++;
          expect(error, what).toMatchObject({ name: 'LgdError', code: 'OUT_OF_MEMORY' });
          const again = async () => ({ result: await use(things[0], device), state: await state(things[0]) });
          const [outcome] = await Promise.allSettled(things.slice(0, 1).map(again));
          if (outcome?.status === 'fulfilled')
            expect(differing(outcome.value, expected), `${what}, used again`).toEqual([]);
          else if (outcome !== undefined)
            expect(refusals, `${what}, used again: ${outcome.reason}`).toContain((outcome.reason as LgdError).code);
        } else expect(differing({ result: faulty, state: await state(things[0]) }, expected), what).toEqual([]); // of an end, or of its wait
        await end();
      }
      expect(told).toBeGreaterThan(2);
      expect(device.info.allocatedBytes).toBeLessThanOrEqual(allocatedBytes);
      expect(differing(await attempt(), expected.result)).toEqual([]);
      await end();
    });
  },
);

describe.each(isWanted('cuda-emulated', 'an event that is not recorded') ? [1, 2, 3, 4] : [])(
  'an event behind a copy that is not recorded',
  (number) => {
    it(`lets nothing be written over what the copy reads: ${number}`, async () => {
      using device = await openDevice('cuda-emulated', { threads: 1 });
      using encoder = encoderOn(device, 'float32');
      await device.synchronize();
      const { error } = await withFault(
        calls,
        ['cudaEventRecord', number, 'cudaErrorMemoryAllocation'],
        async () => {
          encoder.load(weights);
          const refused = device.synchronize();
          encoder.load(weights); // while the copy may still wait
          await refused.finally(() => device.synchronize());
        },
        true,
      );
      expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' });
      encoder.load(weights);
      expect(differing(await encoder.state(), weights)).toEqual([]);
    });
  },
);
