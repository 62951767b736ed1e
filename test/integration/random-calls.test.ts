/**
 * Calls that are drawn, of several objects of one device at once: none is awaited before the next, some are refused, and
 * objects are disposed of in the middle. Each gives the bits that it gives alone, or is refused, and nothing stays.
 */
import { setImmediate } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { devicesUnderTest } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { subjects, type Draw, type Subject } from '../fixtures/random-calls.js';
import { randomNumbers } from '../fixtures/random.js';

// LGDISTILL_RANDOM_CALLS=first..last takes other seeds.
const [first = 9, last = 12] = (process.env['LGDISTILL_RANDOM_CALLS'] ?? '')
  .split('..')
  .filter((one) => one !== '')
  .map(Number);
const seeds = Array.from({ length: last - first + 1 }, (_, i) => first + i);
const devices = await devicesUnderTest('random calls');
const folder = temporaryFolder();
const [objects, calls] = [5, 150];

interface Made {
  kind: keyof typeof subjects;
  subject: Subject<unknown>;
  steps: Step[];
}
interface Step {
  name: string;
  call: (thing: unknown) => unknown;
  refused?: string;
  /** Waits for the object's calls before it. */
  settled: boolean;
}
type Outcome = { value: unknown } | { code: string };

/** Of each object the calls made of it, and of which object each next call is. */
function drawCalls(seed: number): { made: Made[]; order: { object: number; turn: boolean }[] } {
  const random = randomNumbers(seed);
  const draw: Draw = (count) => Math.floor(random() * count);
  const among = <Item>(items: readonly Item[]): Item => items[draw(items.length)]!;
  const kinds = Object.keys(subjects) as Made['kind'][];
  const made = Array.from({ length: objects }, (_, i): Made => {
    const kind = kinds[i] ?? among(kinds);
    return { kind, subject: subjects[kind] as Subject<unknown>, steps: [] };
  });
  const order = Array.from({ length: calls }, () => {
    const object = draw(objects);
    const { subject, steps } = made[object]!;
    const way = random();
    if (way < 0.01) steps.push({ name: 'dispose', call: subject.dispose, settled: false });
    else if (way < 0.2) {
      const [name, [refused, call]] = among(Object.entries(subject.refused));
      steps.push({ name, call, refused, settled: false });
    } else {
      const reads = Object.entries(subject.reads);
      const [name, call] = way < 0.35 && reads.length > 0 ? among(reads) : [undefined, undefined];
      const [other, drawn] = among(Object.entries(subject.calls));
      steps.push({ name: name ?? other, call: call ?? drawn(draw), settled: call !== undefined });
    }
    return { object, turn: draw(3) === 0 };
  });
  return { made, order };
}

async function outcome(step: Step, thing: unknown): Promise<Outcome> {
  try {
    return { value: await step.call(thing) };
  } catch (error) {
    if (error instanceof LgdError) return { code: error.code };
    throw error; // none of ours
  }
}

async function together(device: Device, { made, order }: ReturnType<typeof drawCalls>): Promise<Outcome[][]> {
  const things = await Promise.all(made.map(({ subject }) => subject.make(device, folder)));
  const outcomes: Promise<Outcome>[][] = made.map(() => []);
  const next = made.map(() => 0);
  for (const { object, turn } of order) {
    const step = made[object]!.steps[next[object]!++]!;
    if (step.settled) await Promise.allSettled(outcomes[object]!);
    outcomes[object]!.push(outcome(step, things[object]));
    if (turn) await setImmediate();
  }
  const found = await Promise.all(outcomes.map((one) => Promise.all(one)));
  made.forEach(({ subject }, i) => subject.dispose(things[i]));
  return found;
}

/** The same calls of one object, each awaited, without those that were refused. */
async function alone(device: Device, { subject, steps }: Made): Promise<(Outcome | undefined)[]> {
  const thing = await subject.make(device, folder);
  const outcomes = [];
  for (const step of steps) outcomes.push(step.refused === undefined ? await outcome(step, thing) : undefined);
  subject.dispose(thing);
  return outcomes;
}

async function bytesOf(device: Device): Promise<number> {
  await device.synchronize();
  return device.info.allocatedBytes;
}

describe.each(devices)('random calls on $name', ({ device }) => {
  it.each(seeds)('give what they give alone, and leave no memory: seed %i', async (seed) => {
    const drawn = drawCalls(seed);
    const expected: (Outcome | undefined)[][] = [];
    for (const made of drawn.made) expected.push(await alone(device, made));
    const before = await bytesOf(device);
    const found = await together(device, drawn);
    for (const [object, { kind, steps }] of drawn.made.entries()) {
      const disposed = steps.findIndex(({ name }) => name === 'dispose');
      for (const [at, step] of steps.entries()) {
        const sequence = steps.slice(0, at + 1).map(({ name }) => name);
        const [one, other] = [found[object]![at]!, expected[object]![at]];
        // what its end found under way may be given up, too
        if (disposed >= 0 && at !== disposed && 'code' in one && one.code === 'DISPOSED') continue;
        const wanted = step.refused === undefined ? other : { code: step.refused };
        expect(differing(one, wanted), `${kind} ${object}: ${sequence.join(', ')}`).toEqual([]);
      }
    }
    // a GPU's queue keeps what it sends from, in pieces of the sizes that came together
    expect(await bytesOf(device)).toBeLessThanOrEqual(before + (device.kind === 'cpu' ? 0 : 2 ** 20));
  });
});
