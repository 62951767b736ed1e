/**
 * Runs that are drawn: each step as the CPU takes it from the same state, and the same bits whether they are left in
 * the middle, awaited, or queued at once.
 */
import { deserialize, serialize } from 'node:v8';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SemanticMetrics } from '../../lib/addon/native.js';
import { openDevice, type Device } from '../../lib/device.js';
import type { DistillerState } from '../../lib/train/distiller.js';
import { devicesUnderTest } from '../devices.js';
import { differing } from '../fixtures/differing.js';
import { wholeError } from '../fixtures/encoder-step.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { openRandomRun, randomRun } from '../fixtures/random-run.js';

// LGDISTILL_RANDOM_RUNS=first..last takes other seeds.
const [first = 9, last = 9] = (process.env['LGDISTILL_RANDOM_RUNS'] ?? '')
  .split('..')
  .filter((one) => one !== '')
  .map(Number);
const seeds = Array.from({ length: last - first + 1 }, (_, i) => first + i);
const devices = await devicesUnderTest('random runs');
const folder = temporaryFolder();
let reference: Device;
beforeAll(async () => {
  reference = await openDevice('cpu', { threads: 1 });
});
afterAll(() => reference.dispose());

interface Taken {
  metrics: SemanticMetrics;
  state: DistillerState;
}

/**
 * Every step on both devices from the state that the CPU's plain plan came to: over several, roundings grow until
 * nothing can be compared.
 */
async function takeBoth(device: Device, seed: number): Promise<[found: Taken, expected: Taken][]> {
  await using found = await openRandomRun(device, seed, folder);
  process.env['LGDISTILL_FUSION'] = 'nodes';
  await using expected = await openRandomRun(reference, seed, folder).finally(
    () => delete process.env['LGDISTILL_FUSION'],
  );
  const taken: [Taken, Taken][] = [];
  for (const step of randomRun(seed).rates.keys()) {
    found.distiller.restore(await expected.distiller.state());
    const take = async ({ distiller, queue }: typeof found): Promise<Taken> => ({
      metrics: await distiller.readMetrics(await queue(step)),
      state: await distiller.state(),
    });
    taken.push([await take(found), await take(expected)]);
  }
  return taken;
}

/** 0 where both are zeros: a queue that is empty teaches nothing. */
const error = (found: Record<string, Float32Array>, expected: Record<string, Float32Array>) =>
  wholeError({ ...found, one: Float32Array.of(1e-6) }, { ...expected, one: Float32Array.of(1e-6) });
const dataOf = (record: DistillerState['weights']) =>
  Object.fromEntries(Object.entries(record).map(([name, { data }]) => [name, data]));

function errorsOf([found, expected]: [Taken, Taken]): Record<string, number> {
  const difference = (name: keyof SemanticMetrics) =>
    Math.abs(found.metrics[name] - expected.metrics[name]) / Math.max(1, Math.abs(expected.metrics[name]));
  const parts = (of: DistillerState) => ({
    visual: of.semantic.visual!,
    queue: of.semantic.queue!,
    seen: Float32Array.from(of.semantic.seen!),
    ends: Float32Array.of(of.semantic.queuePosition!, of.semantic.queueFilled!, of.steps!),
  });
  return {
    // 5e-2: some activations lie on either side of a kink
    momentum: error(dataOf(found.state.momentum), dataOf(expected.state.momentum)) / 500,
    weights: error(dataOf(found.state.weights), dataOf(expected.state.weights)) / 10,
    banks: error(parts(found.state), parts(expected.state)),
    online: error(found.state.online ?? {}, expected.state.online ?? {}),
    ...Object.fromEntries(
      (Object.keys(expected.metrics) as (keyof SemanticMetrics)[]).map((name) => [name, difference(name)]),
    ),
    gradientNorm: difference('gradientNorm') / 100, // 1e-2: of the same gradients
  };
}

/** The numbers of all steps and the state behind them. */
async function wholeRun(device: Device, seed: number, way: 'at once' | 'left'): Promise<unknown> {
  const { rates, cut } = randomRun(seed);
  let run = await openRandomRun(device, seed, folder);
  const metrics: SemanticMetrics[] = [];
  if (way === 'at once') {
    for (const ticket of await Promise.all([...rates.keys()].map(run.queue)))
      metrics.push(await run.distiller.readMetrics(ticket));
  } else {
    for (const step of rates.keys()) {
      if (step === cut) {
        const kept = serialize(await run.distiller.state());
        await run[Symbol.asyncDispose]();
        run = await openRandomRun(device, seed, folder);
        await run.queue(step); // which the state undoes
        run.distiller.restore(deserialize(kept) as DistillerState);
      }
      metrics.push(await run.distiller.readMetrics(await run.queue(step)));
    }
  }
  const state = await run.distiller.state();
  await run[Symbol.asyncDispose]();
  return { metrics, state };
}

describe.each(devices)('random runs on $name', ({ device }) => {
  it.each(seeds)('are the same bits left or queued at once, and take the steps of the CPU: seed %i', async (seed) => {
    expect(differing(await wholeRun(device, seed, 'left'), await wholeRun(device, seed, 'at once'))).toEqual([]);
    for (const [step, both] of (await takeBoth(device, seed)).entries()) {
      for (const [what, error] of Object.entries(errorsOf(both)))
        expect(error, `${what} of step ${step}`).toBeLessThan(1e-4);
    }
  });
});
