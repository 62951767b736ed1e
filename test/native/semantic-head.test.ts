import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import type { SemanticHeadHandle, TensorHandle } from '../../lib/addon/native.js';
import { openDevice, type Device } from '../../lib/device.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { devicesUnderTest } from '../devices.js';
import { goldenCases, relativeError, type GoldenCase } from '../fixtures/semantic/cases.js';

const devices = await devicesUnderTest('the semantic head');
const cases = (await goldenCases()).filter(({ name }) => !name.startsWith('published'));
const golden = (name: string) => cases.find((one) => one.name === name)!;

function tensor(device: Device, values: Float32Array, dimension: number): TensorHandle {
  const handle = device.addon.makeTensor(device.handle, [values.length / dimension, dimension]);
  device.addon.writeTensor(handle, values);
  return handle;
}

function makeHead(device: Device, golden: GoldenCase, bfloat16 = false): SemanticHeadHandle {
  const {
    dimension,
    categories,
    queueSize,
    use,
    alpha,
    studentTemperature,
    teacherTemperature,
    momentum,
    textual,
    visual,
    seen,
  } = golden;
  const head = device.addon.makeSemanticHead(device.handle, {
    dimension,
    categories,
    queueSize: use.includes('queue') ? queueSize : 0,
    useTextual: use.includes('textual'),
    useVisual: use.includes('visual'),
    alpha,
    studentTemperature,
    teacherTemperature,
    momentum,
    bfloat16,
  });
  if (categories > 0) device.addon.writeSemanticState(head, { textual, visual, seen });
  return head;
}

/** Rows in use, oldest first. */
function inOrder(queue: Float32Array, position: number, filled: number, dimension: number): number[] {
  const size = queue.length / dimension;
  const first = filled < size ? 0 : position;
  return Array.from({ length: filled }, (_, i) => (first + i) % size).flatMap((row) => [
    ...queue.subarray(row * dimension, (row + 1) * dimension),
  ]);
}

describe.each(devices)('the semantic head on $name', ({ device }) => {
  const { addon } = device;

  const modes = [
    { mode: 'float32', bfloat16: false, tolerance: 2e-5 },
    { mode: 'bfloat16', bfloat16: true, tolerance: 5e-3 },
  ];
  const both = cases.flatMap((one) =>
    modes.slice(0, device.kind === 'cpu' ? 1 : 2).map((mode) => ({ ...mode, name: one.name, one })),
  );

  test.each(both)('keeps its state over the steps of $name in $mode', async ({ one, bfloat16, tolerance }) => {
    const { dimension } = one;
    const head = makeHead(device, one, bfloat16);
    const scale = 3;
    let slot = 0;
    for (const step of one.steps) {
      const student = tensor(device, step.student, dimension);
      const teacher = tensor(device, step.teacher, dimension);
      const gradient = addon.makeTensor(device.handle, [step.student.length / dimension, dimension]);
      addon.headLoss(head, student, teacher, gradient, scale, slot);
      addon.headUpdate(head, [teacher], slot);
      const metrics = await addon.readMetrics(device.handle, head, slot);
      for (const key of ['loss', 'lossVisual', 'lossTextual', 'klVisual', 'klTextual'] as const) {
        expect(relativeError([metrics[key]], [step[key]]), key).toBeLessThan(tolerance);
      }
      expect(metrics.entropyVisual).toBeCloseTo(step.lossVisual - step.klVisual, bfloat16 ? 2 : 4);
      expect(metrics.entropyTextual).toBeCloseTo(step.lossTextual - step.klTextual, bfloat16 ? 2 : 4);
      const found = await addon.readTensor(gradient);
      expect(
        relativeError(
          found,
          step.gradient.map((value) => scale * value),
        ),
        'gradient',
      ).toBeLessThan(tolerance);
      const state = await addon.readSemanticState(device.handle, head);
      if (one.categories > 0) {
        expect(relativeError(state.visual, step.visualAfter!)).toBeLessThan(2e-5);
        expect([...state.seen]).toEqual(step.seenAfter);
        expect(metrics.categoriesHit).toBe(new Set(step.assignment).size);
        expect(metrics.categoriesSeen).toBe(step.seenAfter!.reduce((a, b) => a + b));
      }
      if (one.use.includes('queue')) {
        expect(
          relativeError(inOrder(state.queue, state.queuePosition, state.queueFilled, dimension), step.queueAfter!),
        ).toBeLessThan(1e-6);
      }
      slot = (slot + 5) % 64;
    }
  });

  test('several batches of one update count as one', async () => {
    const one = golden('both_banks');
    const { dimension, momentum, textual, visual, seen } = one;
    const batches = one.steps.map(({ teacher }) => teacher);
    const head = makeHead(device, one);
    addon.headUpdate(
      head,
      batches.map((batch) => tensor(device, batch, dimension)),
      7,
    );
    const state = await addon.readSemanticState(device.handle, head);
    const teacher = Float32Array.from(batches.flatMap((batch) => [...batch]));
    const expected = await bankUpdate({ teacher, textual, visual, seen, dimension, momentum }, { device: 'js' });
    expect(relativeError(state.visual, expected.visual)).toBeLessThan(2e-6);
    expect([...state.seen]).toEqual([...expected.seen]);
  });

  // On CUDA an update takes what the losses before it left, where they were of the same batches in the same order.
  test.each([
    ['after their losses', [0, 1, 2], [0, 1, 2]],
    ['after losses that started over', [0, 1, 0, 1, 2], [0, 1, 2]],
    ['of which one had no loss', [0, 1], [0, 1, 2]],
    ['after losses in another order', [2, 1, 0], [0, 1, 2]],
    ['of which some are left out', [0, 1, 2], [1, 2]],
  ] as const)('batches %s move the banks alike', async (_, losses, updates) => {
    const one = golden('both_banks');
    const { dimension, momentum, textual, visual, seen, steps } = one;
    for (const { bfloat16 } of modes.slice(0, device.kind === 'cpu' ? 1 : 2)) {
      const head = makeHead(device, one, bfloat16);
      const teachers = steps.map(({ teacher }) => tensor(device, teacher, dimension));
      for (const i of losses) {
        const student = tensor(device, steps[i]!.student, dimension);
        addon.headLoss(
          head,
          student,
          teachers[i]!,
          addon.makeTensor(device.handle, [steps[i]!.student.length / dimension, dimension]),
          1,
          0,
        );
      }
      addon.headUpdate(
        head,
        updates.map((i) => teachers[i]!),
        1,
      );
      const state = await addon.readSemanticState(device.handle, head);
      const teacher = Float32Array.from(updates.flatMap((i) => [...steps[i]!.teacher]));
      const expected = await bankUpdate({ teacher, textual, visual, seen, dimension, momentum }, { device: 'js' });
      expect(relativeError(state.visual, expected.visual)).toBeLessThan(2e-6);
      expect([...state.seen]).toEqual([...expected.seen]);
      const metrics = await addon.readMetrics(device.handle, head, 1);
      expect(metrics.categoriesHit).toBe(new Set(expected.assignment).size);
      expect(metrics.categoriesSeen).toBe(expected.seen.reduce((a, b) => a + b));
      // The loss after it goes by the banks as they are now.
      const last = steps[2]!;
      const gradient = addon.makeTensor(device.handle, [last.student.length / dimension, dimension]);
      addon.headLoss(head, tensor(device, last.student, dimension), teachers[2]!, gradient, 1, 2);
      const { alpha, studentTemperature, teacherTemperature } = one;
      const next = await bankLoss(
        {
          student: last.student,
          teacher: last.teacher,
          textual,
          visual: expected.visual,
          dimension,
          alpha,
          studentTemperature,
          teacherTemperature,
        },
        { device: 'js' },
      );
      expect(relativeError(await addon.readTensor(gradient), next.gradient)).toBeLessThan(bfloat16 ? 5e-3 : 2e-5);
    }
  });

  test('tells how much of the target lies on the own embedding, and how often both agree', async () => {
    const one = golden('both_banks');
    const { dimension, textual, visual, categories, teacherTemperature, steps } = one;
    const step = steps[0]!;
    const batch = step.student.length / dimension;
    const unit = (row: Float32Array) => Float64Array.from(row, (value) => value / Math.hypot(...row));
    const rows = (values: Float32Array, i: number) => values.subarray(i * dimension, (i + 1) * dimension);
    const scores = (row: Float64Array, bank: Float32Array) =>
      Array.from({ length: categories }, (_, k) => rows(bank, k).reduce((sum, value, d) => sum + value * row[d]!, 0));
    const nearest = (values: number[]) => values.indexOf(Math.max(...values));
    let own = 0;
    let agreeing = 0;
    for (let i = 0; i < batch; i++) {
      const teacher = unit(rows(step.teacher, i));
      own +=
        1 /
        (1 + scores(teacher, visual).reduce((sum, score) => sum + Math.exp((score - 1) / teacherTemperature), 0)) /
        batch;
      if (nearest(scores(teacher, textual)) === nearest(scores(unit(rows(step.student, i)), textual))) agreeing++;
    }
    const head = makeHead(device, one);
    addon.headLoss(
      head,
      tensor(device, step.student, dimension),
      tensor(device, step.teacher, dimension),
      addon.makeTensor(device.handle, [batch, dimension]),
      1,
      0,
    );
    const metrics = await addon.readMetrics(device.handle, head, 0);
    expect(metrics.ownMass).toBeCloseTo(own, 6);
    expect(metrics.agreement).toBeCloseTo(agreeing / batch, 12);
    expect(metrics.categoriesHit).toBe(0); // no update was made
  });

  test('a scale of 0 gives no gradient', async () => {
    const one = golden('hybrid');
    const { student, teacher } = one.steps[0]!;
    const gradient = tensor(device, student, one.dimension);
    addon.headLoss(
      makeHead(device, one),
      tensor(device, student, one.dimension),
      tensor(device, teacher, one.dimension),
      gradient,
      0,
      0,
    );
    expect((await addon.readTensor(gradient)).every((value) => value === 0)).toBe(true);
  });

  test('a slot keeps its step until it is used again', async () => {
    const one = golden('hybrid');
    const head = makeHead(device, one);
    one.steps.forEach((step, slot) => {
      const teacher = tensor(device, step.teacher, one.dimension);
      addon.headLoss(
        head,
        tensor(device, step.student, one.dimension),
        teacher,
        addon.makeTensor(device.handle, [step.student.length / one.dimension, one.dimension]),
        1,
        slot,
      );
      addon.headUpdate(head, [teacher], slot);
    });
    for (const [slot, step] of one.steps.entries()) {
      const { loss } = await addon.readMetrics(device.handle, head, slot);
      expect(relativeError([loss], [step.loss])).toBeLessThan(2e-5);
    }
  });

  test('state that is written comes back, and an absent part stays', async () => {
    const one = golden('small_queue');
    const head = makeHead(device, one);
    const queue = Float32Array.from({ length: one.queueSize * one.dimension }, (_, i) => i);
    addon.writeSemanticState(head, { queue, queuePosition: 3, queueFilled: 4 });
    addon.writeSemanticState(head, { seen: Uint8Array.of(1, 0, 1, 1, 0) });
    const state = await addon.readSemanticState(device.handle, head);
    expect([...state.queue]).toEqual([...queue]);
    expect(state.queuePosition).toBe(3);
    expect(state.queueFilled).toBe(4);
    expect([...state.textual]).toEqual([...one.textual]);
    expect([...state.visual]).toEqual([...one.visual]);
    expect([...state.seen]).toEqual([1, 0, 1, 1, 0]);
    expect(() => addon.writeSemanticState(head, { queue, queuePosition: 1, queueFilled: 2 })).toThrow(
      expect.objectContaining({ code: 'BAD_BANK' }),
    );
    expect(() => addon.writeSemanticState(head, { visual: new Float32Array(3) })).toThrow(
      expect.objectContaining({ code: 'BAD_SHAPE' }),
    );
  });

  test.each([
    ['ZERO_EMBEDDING', 'student', 0],
    ['ZERO_EMBEDDING', 'teacher', 0],
    ['NON_FINITE', 'student', NaN],
    ['NON_FINITE', 'teacher', -Infinity],
  ] as const)('%s of a %s row is told when the metrics are read, and changes nothing', async (code, who, value) => {
    const one = golden('hybrid');
    const { dimension, steps } = one;
    const step = steps[0]!;
    const broken = { student: step.student.slice(), teacher: step.teacher.slice() };
    if (value === 0) broken[who].fill(0, 2 * dimension, 3 * dimension);
    else broken[who][2 * dimension + 5] = value;
    const head = makeHead(device, one);
    const teacher = tensor(device, broken.teacher, dimension);
    const gradient = addon.makeTensor(device.handle, [step.student.length / dimension, dimension]);
    addon.headLoss(head, tensor(device, broken.student, dimension), teacher, gradient, 1, 0);
    await expect(addon.readMetrics(device.handle, head, 0)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(`row 2 of the ${who}`) as string,
    });
    expect((await addon.readTensor(gradient)).every(Number.isFinite)).toBe(true);
    if (who === 'teacher') {
      addon.headUpdate(head, [teacher], 0);
      await expect(addon.readMetrics(device.handle, head, 0)).rejects.toMatchObject({ code });
      const state = await addon.readSemanticState(device.handle, head);
      expect([...state.visual]).toEqual([...one.visual]);
      expect([...state.seen]).toEqual([...one.seen]);
      expect(state.queue.every((x) => x === 0)).toBe(true);
    }
    // The device goes on.
    addon.headLoss(
      head,
      tensor(device, step.student, dimension),
      tensor(device, step.teacher, dimension),
      gradient,
      1,
      1,
    );
    expect(
      relativeError([(await addon.readMetrics(device.handle, head, 1)).lossTextual], [step.lossTextual]),
    ).toBeLessThan(2e-5);
  });

  test('finds the most similar rows in falling order, the first of equals first', async () => {
    const dimension = 3;
    const bank = Float32Array.of(1, 0, 0, /**/ 0, 2, 0, /**/ 3, 3, 0, /**/ 0, 0.5, 0, /**/ 0, 0, -1);
    const queries = Float32Array.of(0, 7, 0, /**/ 1, 0.9, 0, /**/ 0, 0, 1);
    const { indices, scores } = await addon.topSimilar(device.handle, queries, bank, dimension, 3);
    expect([...indices]).toEqual([1, 3, 2, /**/ 2, 0, 1, /**/ 0, 1, 2]);
    const [a, b, c] = [Math.SQRT1_2, 1 / Math.hypot(1, 0.9), 0.9 / Math.hypot(1, 0.9)];
    expect(relativeError(scores, [1, 1, a, a * (b + c), b, c, 0, 0, 0])).toBeLessThan(1e-6);
    const all = await addon.topSimilar(device.handle, queries, bank, dimension, 5);
    expect([...all.indices.subarray(10)]).toEqual([0, 1, 2, 3, 4]);
    await expect(addon.topSimilar(device.handle, queries, bank, dimension, 6)).rejects.toMatchObject({
      code: 'BAD_SHAPE',
    });
    await expect(addon.topSimilar(device.handle, new Float32Array(3), bank, dimension, 1)).rejects.toMatchObject({
      code: 'ZERO_EMBEDDING',
    });
  });

  test('finds the same rows as sorting does in a large bank', async () => {
    const dimension = 5;
    const wave = (length: number, step: number) => Float32Array.from({ length }, (_, i) => Math.sin(1 + i * step));
    const [bank, queries, k] = [wave(4097 * dimension, 0.37), wave(9 * dimension, 0.91), 33];
    const { indices, scores } = await addon.topSimilar(device.handle, queries, bank, dimension, k);
    const unit = (values: Float32Array, i: number) => {
      const row = values.subarray(i * dimension, (i + 1) * dimension);
      const norm = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
      return Array.from(row, (x) => x / norm);
    };
    for (let q = 0; q < 9; q++) {
      const query = unit(queries, q);
      const sorted = Array.from({ length: 4097 }, (_, i) =>
        unit(bank, i).reduce((sum, x, d) => sum + x * query[d]!, 0),
      ).sort((a, b) => b - a);
      expect(relativeError(scores.subarray(q * k, (q + 1) * k), sorted.slice(0, k))).toBeLessThan(1e-6);
      expect(new Set(indices.subarray(q * k, (q + 1) * k)).size).toBe(k);
    }
  });

  test('options that contradict each other are refused at once', () => {
    const make = (options: object) => () =>
      addon.makeSemanticHead(device.handle, { dimension: 8, categories: 4, ...options });
    for (const options of [
      { alpha: 1.5 },
      { studentTemperature: 0 },
      { teacherTemperature: -1 },
      { momentum: 1 },
      { useTextual: false, alpha: 0.5 },
      { useVisual: false, alpha: 0.5 },
      { categories: 0, queueSize: 4, alpha: 0.5 },
    ])
      expect(make(options)).toThrow(expect.objectContaining({ code: 'BAD_OPTION' }));
    expect(make({ dimension: 0 })).toThrow(expect.objectContaining({ code: 'BAD_SHAPE' }));
    if (device.kind === 'cpu')
      expect(make({ bfloat16: true })).toThrow(expect.objectContaining({ code: 'BAD_OPTION' }));
  });
});

describe('on the CPU', () => {
  const one = golden('wide_batch');
  const { student, teacher } = one.steps[0]!;
  const { dimension, textual, visual, alpha, studentTemperature, teacherTemperature } = one;
  const input = { student, teacher, textual, visual, dimension, alpha, studentTemperature, teacherTemperature };

  test('the number of threads does not change a bit', async () => {
    const results: Buffer[] = [];
    for (const threads of [1, 2, 5]) {
      using device = await openDevice('cpu', { threads });
      const { gradient } = await bankLoss(input, { device });
      results.push(Buffer.from(gradient.buffer));
    }
    expect(results[1]!.equals(results[0]!)).toBe(true);
    expect(results[2]!.equals(results[0]!)).toBe(true);
  });

  test.each(['baseline', 'avx2', 'avx512'])('the %s instructions give the reference', async (isa) => {
    const expected = await bankLoss(input, { device: 'js' });
    const script = `
      const addon = require(process.argv[1]);
      let text = '';
      process.stdin.on('data', (chunk) => (text += chunk)).on('end', async () => {
        const input = JSON.parse(text, (key, value) => (Array.isArray(value) ? Float32Array.from(value) : value));
        const { loss, gradient } = await addon.bankLoss(addon.openDevice('cpu', 0, 2), input);
        process.stdout.write(JSON.stringify({ loss, gradient: [...gradient] }));
      });`;
    const plain = JSON.stringify(input, (_, value: unknown) => (value instanceof Float32Array ? [...value] : value));
    const child = spawnSync(process.execPath, ['-e', script, addonPath()], {
      input: plain,
      env: { ...process.env, LGDISTILL_ISA: isa },
      encoding: 'utf8',
    });
    expect(child.stderr).toBe('');
    const found = JSON.parse(child.stdout) as { loss: number; gradient: number[] };
    expect(relativeError([found.loss], [expected.loss])).toBeLessThan(2e-5);
    expect(relativeError(found.gradient, expected.gradient)).toBeLessThan(2e-5);
  });
});
