/**
 * Runs, images and evaluations of one device at once, with callbacks that misbehave, signals that fire, and objects that
 * are disposed of in their middle, in any order. Whatever comes of it, each call ends, with an error that has a code or
 * is the callback's own, and nothing stays.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { ImageCache } from '../../lib/data/cache.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { readAhead } from '../../lib/data/read-ahead.js';
import { imagesFromBuffers } from '../../lib/data/sources.js';
import { StreamedImages } from '../../lib/data/streamed.js';
import { openDevice, type DeviceName } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { ZeroShotEvaluation } from '../../lib/evaluate/zeroshot.js';
import { GraphBuilder, Student } from '../../lib/models/index.js';
import { Distiller } from '../../lib/train/distiller.js';
import { devicesUnderTest } from '../devices.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { answer, misbehavingSource, misbehavingTeacher, OwnError } from '../fixtures/misbehaving.js';
import type { Draw } from '../fixtures/random-calls.js';
import { randomNormal, randomNumbers } from '../fixtures/random.js';
import { ownTeacher, plainPicture, smallCache } from '../fixtures/tiny.js';

// LGDISTILL_RANDOM_ENDS=first..last takes other seeds.
const [first = 1, last = 20] = (process.env['LGDISTILL_RANDOM_ENDS'] ?? '')
  .split('..')
  .filter((one) => one !== '')
  .map(Number);
const devices = await devicesUnderTest('random ends');
const folder = temporaryFolder();
const [size, batch, count] = [6, 2, 7];
const colours = ['red', 'green', 'blue', 'teal', 'gold', 'navy', 'pink'];
const pictures = await Promise.all(colours.map((colour) => plainPicture(colour, 32)));
const [names, halves] = [['a', 'b'], [0.5, 0.5, 0.5] as const];
const images = {
  ...imagesFromBuffers(pictures.map((bytes, i) => ({ id: String(i), bytes }))),
  labels: Int32Array.from({ length: count }, (_, i) => i % 2),
  classNames: names,
};
const tsb = TextualSemanticsBank.fromEmbeddings(names, randomNormal(2 * size, 3), { encoderId: 'made up' });

function makeStudent(device: Student['device']): Student {
  const g = new GraphBuilder('small');
  const x = g.convNorm(g.images, 'features.0', { channels: 8, kernel: 3, stride: 2 }, 'relu');
  return new Student('small', device, size, 1, g.finish(g.linear(g.globalPool(x), 'head', { features: size })), 1);
}

/** What all of a seed's work may do to itself. */
class Mess {
  readonly stop = new AbortController();
  readonly ends: (() => void)[] = [];
  readonly wrong: string[] = [];

  constructor(readonly draw: Draw) {}

  /** Ends something that is in use. */
  readonly meddle = (): void => {
    if (this.draw(6) === 0) this.stop.abort(new OwnError('stopped'));
    else this.ends[this.draw(this.ends.length)]?.();
  };

  own<Thing extends Disposable>(thing: Thing): Thing {
    this.ends.push(() => thing[Symbol.dispose]());
    return thing;
  }

  /** Makes calls, each of which must end as it may. */
  async work(name: string, call: () => Promise<unknown>): Promise<void> {
    try {
      await call();
    } catch (error) {
      const isExpected = error instanceof OwnError || (error instanceof LgdError && error.code !== 'NATIVE_ERROR');
      if (!isExpected) this.wrong.push(`${name}: ${error instanceof Error ? error.stack : String(error)}`);
    }
  }

  /** Takes what is given one by one, and leaves early, or meddles. */
  async take(given: AsyncGenerator<object>): Promise<void> {
    const end = this.draw(12);
    let at = 0;
    for await (const one of given) {
      if (at++ === end && this.draw(3) > 0) return;
      if (at === end) this.meddle();
      if (this.draw(30) === 0) throw new OwnError('in the loop');
      (one as { release?: () => void }).release?.();
    }
  }
}

async function messOf(name: DeviceName, seed: number): Promise<string[]> {
  const random = randomNumbers(seed);
  const draw: Draw = (most) => Math.floor(random() * most);
  const mess = new Mess(draw);
  const { meddle, stop } = mess;
  const { signal } = stop;
  const device = mess.own(await openDevice(name, { threads: 2 }));
  const open = { ...smallCache(device, folder), maxBrokenShare: 0.5, readPauses: [1] };
  const source = () => (draw(2) === 0 ? images : misbehavingSource(draw, images, meddle));
  const openAny = async () =>
    mess.own(await [ImageCache.build, StreamedImages.open][draw(2)]!(source(), { ...open, signal }));
  const teacher = () => misbehavingTeacher(draw, size, meddle);
  const output = join(folder, `run ${name} ${seed}`);
  const kinds: Record<string, (i: number) => Promise<unknown>> = {
    run: async (i) => {
      const dataset = await openAny();
      const config = {
        output: join(output, String(i)),
        teacherCache: { views: draw(2) },
        train: { epochs: 2, batchSize: batch, learningRate: 0.1, precision: 'float32', accumulate: 1 + draw(2) },
      } as const;
      const student = makeStudent(device);
      const made = mess.own(
        new Distiller({ device, teacher: teacher(), student, tsb, config: { ...config, method: 'lgd' } }),
      );
      await mess.take(made.run(dataset, { signal }));
    },
    evaluation: async () => {
      const evaluation = new ZeroShotEvaluation({
        device,
        images: await openAny(),
        bank: tsb,
        mean: halves,
        std: halves,
      });
      await evaluation.evaluateTeacher(draw(3) > 0 ? teacher() : ownTeacher({ embeddingSize: size }), {
        batch,
        signal,
      });
    },
    reading: async () => {
      const batches = Array.from({ length: 9 }, () => ({
        images: Int32Array.from({ length: batch }, () => draw(count)),
      }));
      await mess.take(readAhead(await openAny(), batches, draw(3), signal));
    },
    pack: (i) => packImages(source(), { output: join(output, `${i}.pack`), readPauses: [1], signal }),
    bank: () => {
      const encode = (texts: readonly string[]) =>
        answer(draw, () => randomNormal(texts.length * size, 1), { oneIn: 2, wrong: [null, []], meddle });
      const encoder = {
        id: 'own',
        embeddingSize: size,
        maxTokens: 9,
        countTokens: () => 1,
        encode,
        dispose: async () => undefined,
      };
      return TextualSemanticsBank.build(names, { encoder, templates: 'none', signal });
    },
  };
  const works = Array.from({ length: 6 }, (_, i) => {
    const [kind, call] = Object.entries(kinds)[draw(5)]!;
    return mess.work(kind, () => call(i));
  });
  let isOver = false;
  const all = Promise.all(works).then(() => (isOver = true));
  for (let turn = 0; turn < 100 && !isOver; turn++) {
    await setTimeout(1);
    if (draw(100) === 0) meddle();
  }
  stop.abort(new OwnError('stopped')); // what never answers is let go
  await all;
  for (const end of mess.ends) end();
  const left = (await readdir(output, { recursive: true }).catch(() => [])).filter((one) =>
    /\.lock|probe|tmp/u.test(one),
  );
  return [...mess.wrong, ...left];
}

describe.each(devices)('random ends on $name', ({ device }) => {
  it('leave no call under way, and nothing behind', async () => {
    const warnings: Error[] = [];
    const note = (warning: Error) => warnings.push(warning);
    process.on('warning', note);
    for (let seed = first; seed <= last; seed++) expect([seed, await messOf(device.kind, seed)]).toEqual([seed, []]);
    await setImmediate();
    process.off('warning', note);
    expect(warnings).toEqual([]);
  });
});
