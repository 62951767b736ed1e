import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../lib/device.js';
import { loadTeacher, studentGraph, type NativeTeacher } from '../../lib/models/index.js';
import { isWanted } from '../devices.js';
import { towers, writeTeacher } from '../gpu/setup.js';
import { openSteps } from '../gpu/speed.js';
import { launchCounts, teacherLaunches } from '../fixtures/launch-counts.js';
import { buildEmulatedAddon } from '../native/emulated.js';
import { testsAll } from '../shared.js';

// Whole training steps at the size that they are meant for, on an emulated GPU that checks every launch (threads, grid,
// shared memory, who uses what on which stream) and runs none of it.
describe.skipIf(!isWanted('cuda-emulated', 'launches of full-size steps'))(
  'a step of 256 images with CLIP RN50, not run',
  () => {
    const all = testsAll('launches of efficientnet_v2_s, and of others than mobilenet_v2 with less shared memory');
    const multiprocessors: Record<number, number> = { 227: 132, 163: 108, 99: 128 }; // an H100's, an A100's, a 4090's
    let folder = '';
    beforeAll(async () => {
      process.env['LGDISTILL_ADDON'] = buildEmulatedAddon();
      process.env['LGDISTILL_EMULATION_ORDER'] = 'none';
      process.env['LGDISTILL_PROBE'] = 'off'; // it computes nothing
      process.env['LGDISTILL_PDL'] = '1';
      folder = await mkdtemp(join(tmpdir(), 'lgdistill-launches-'));
      for (const resolution of [224, 64])
        await writeTeacher(join(folder, String(resolution)), towers.resnet50, resolution);
    }, 900_000);
    afterAll(() => rm(folder, { recursive: true, force: true }));

    // With fewer KiB, what does not fit goes by other kernels.
    it.each(
      launchCounts.filter(
        ([student, , shared]) => all || (shared === 227 ? !student.includes('v2_s') : student === 'mobilenet_v2'),
      ),
    )(
      '%s at %i px with %i KiB: %i launches and copies in one graph',
      async (student, resolution, shared, nodes) => {
        process.env['LGDISTILL_EMULATION_SHARED'] = String(shared);
        process.env['LGDISTILL_EMULATION_MULTIPROCESSORS'] = String(multiprocessors[shared]);
        using device = await openDevice('cuda');
        expect(device.info.name).toBe('emulated GPU');
        const { distiller, take, dispose } = await openSteps(device, {
          student,
          widthMultiplier: 1,
          resolution,
          stored: resolution,
          batch: 256,
          images: 256,
          categories: 1000,
          teacherFolder: join(folder, String(resolution)),
        });
        for (let step = 0; step < 8; step++) await take();
        await device.synchronize();
        const drops = studentGraph(student, { embeddingSize: 8 }).nodes.filter(
          ({ op }) => op === 'stochasticDepth',
        ).length;
        expect(await distiller.stepInfo()).toMatchObject({
          eager: 1,
          launched: 7,
          instantiated: 1,
          nodes,
          changed: 5 + 2 * drops, // stochastic depth has a seed a block, forward and backward
          programmatic: nodes - 3, // all but fills and what comes behind them or two streams
        });
        await dispose();
      },
      300_000,
    );

    it(`${teacherLaunches} of them are the teacher's`, async () => {
      process.env['LGDISTILL_EMULATION_SHARED'] = '227';
      process.env['LGDISTILL_EMULATION_MULTIPROCESSORS'] = String(multiprocessors[227]);
      using device = await openDevice('cuda');
      await using teacher = (await loadTeacher(join(folder, '224'), { device })) as NativeTeacher;
      using encoder = teacher.compile({ batch: 256 });
      const [step, images] = [device.addon.makeStep(device.handle), encoder.makeImages()];
      for (let pass = 0; pass < 2; pass++) {
        device.addon.beginStep(step);
        encoder.forwardTensor(images);
        device.addon.endStep(step);
      }
      expect(await device.addon.stepInfo(step)).toMatchObject({ launched: 1, nodes: teacherLaunches });
      for (const object of [step, images]) device.addon.release(object);
    }, 300_000);
  },
);
