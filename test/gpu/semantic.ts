/** The semantic loss and bank update on CUDA: golden steps, plain TypeScript, and the same bits twice. */
import type { Device } from '../../lib/device.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { randomNormal } from '../fixtures/random.js';
import { goldenCases, relativeError, type GoldenCase } from '../fixtures/semantic/cases.js';
import { noteSkip } from '../shared.js';
import { digits, sameBits, type Report } from './report.js';

const tolerances = { float32: 2e-5, bfloat16: 5e-3 } as const;

/** Worst relative errors over a case's steps. */
async function measureCase(
  golden: GoldenCase,
  device: Device,
  precision: keyof typeof tolerances,
): Promise<{ loss: number; bank: number }> {
  const { dimension, use, momentum, studentTemperature, teacherTemperature, alpha, textual } = golden;
  let { visual, seen } = golden;
  let queue = new Float32Array(0);
  const worst = { loss: 0, bank: 0 };
  for (const step of golden.steps) {
    const { student, teacher } = step;
    // SEED's first step has nothing to compare with
    const alone = use.length === 1 && use[0] === 'queue' && queue.length === 0;
    if (!alone) {
      const banks = {
        textual: use.includes('textual') ? textual : undefined,
        visual: use.includes('visual') ? visual : undefined,
        queue: use.includes('queue') ? queue : undefined,
      };
      const result = await bankLoss(
        { student, teacher, dimension, studentTemperature, teacherTemperature, alpha, ...banks },
        { device, precision },
      );
      const numbers = (['loss', 'lossVisual', 'lossTextual', 'klVisual', 'klTextual'] as const).map((key) =>
        relativeError([result[key]], [step[key]]),
      );
      worst.loss = Math.max(worst.loss, ...numbers, relativeError(result.gradient, step.gradient));
    }
    if (golden.categories > 0) {
      const update = await bankUpdate({ teacher, textual, visual, seen, dimension, momentum }, { device });
      const same =
        [...update.assignment].join() === step.assignment!.join() && [...update.seen].join() === step.seenAfter!.join();
      worst.bank = Math.max(worst.bank, same ? relativeError(update.visual, step.visualAfter!) : Infinity);
      ({ visual, seen } = update);
    }
    queue = Float32Array.from(step.queueAfter ?? []);
  }
  return worst;
}

export async function checkGoldenSteps(report: Report, cuda: Device): Promise<void> {
  const cases = await goldenCases();
  for (const golden of cases) {
    if (report.small && golden.categories * golden.dimension > 4096) {
      noteSkip(`golden ${golden.name}`, 'an emulated GPU takes long for it');
      continue;
    }
    for (const [precision, tolerance] of Object.entries(tolerances) as ['float32' | 'bfloat16', number][]) {
      const name = `golden ${golden.name} ${precision}`;
      // there the rounding of the inputs alone moves the targets
      const limit = golden.teacherTemperature < 1e-3 ? Math.max(tolerance, 2e-3) : tolerance;
      await report.attempt('semantic', name, async () => {
        const { loss, bank } = await measureCase(golden, cuda, precision);
        report.check(
          'semantic',
          name,
          `loss and gradient ${digits(loss)}, bank ${digits(bank)}`,
          loss < limit && bank < 2e-5,
        );
      });
    }
  }
}

function unitRows(count: number, dimension: number, seed: number): Float32Array {
  const values = randomNormal(count * dimension, seed);
  for (let row = 0; row < count; row++) {
    const part = values.subarray(row * dimension, (row + 1) * dimension);
    const norm = Math.hypot(...part);
    part.forEach((value, i) => (part[i] = value / norm));
  }
  return values;
}

/** Sizes past a tile in every direction, and a bank whose scores no longer fit at once. */
export async function checkAgainstPlain(report: Report, cuda: Device): Promise<void> {
  const shapes = report.small
    ? ([
        [5, 24, 7],
        [31, 70, 40],
      ] as const)
    : ([
        [5, 24, 7],
        [256, 1024, 1000],
        [64, 512, 5000],
        [16, 64, 100_000],
      ] as const);
  for (const [B, D, K] of shapes) {
    const name = `${B} x ${D} x ${K}`;
    await report.attempt('semantic', name, async () => {
      const [student, teacher, textual, visual] = [
        randomNormal(B * D, 1),
        randomNormal(B * D, 2),
        unitRows(K, D, 3),
        unitRows(K, D, 4),
      ];
      const input = {
        student,
        teacher,
        textual,
        visual,
        dimension: D,
        studentTemperature: 0.2,
        teacherTemperature: 0.01,
        alpha: 0.5,
      };
      const expected = await bankLoss(input, { device: 'js' });
      for (const [precision, tolerance] of Object.entries(tolerances) as ['float32' | 'bfloat16', number][]) {
        const [found, again] = [
          await bankLoss(input, { device: cuda, precision }),
          await bankLoss(input, { device: cuda, precision }),
        ];
        const error = Math.max(
          Math.abs(found.loss / expected.loss - 1),
          relativeError(found.gradient, expected.gradient),
        );
        const same = found.loss === again.loss && sameBits(found.gradient, again.gradient);
        report.check(
          'semantic',
          `loss ${name} ${precision} as plain TypeScript`,
          `${digits(error)}, ${same ? 'the same bits twice' : 'other bits the second time'}`,
          error < tolerance && same,
        );
      }
      const update = { teacher, textual, visual, seen: new Uint8Array(K), dimension: D, momentum: 0.99 };
      const [a, b] = [await bankUpdate(update, { device: 'js' }), await bankUpdate(update, { device: cuda })];
      const same = sameBits(a.assignment, b.assignment);
      const error = relativeError(b.visual, a.visual);
      report.check(
        'semantic',
        `bank update ${name} as plain TypeScript`,
        `${digits(error)}, assignment ${same ? 'equal' : 'differs'}`,
        same && error < 2e-5,
      );
    });
  }
}
