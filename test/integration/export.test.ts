import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test, vi } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { openDevice } from '../../lib/device.js';
import { defaultOutput, exportStudent, type ExportFormat } from '../../lib/export/student.js';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { Encoder } from '../../lib/models/encoder.js';
import { createStudent } from '../../lib/models/student.js';
import { version } from '../../lib/package.js';
import * as files from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, shapeNames, smallConfig, train, type Outcome } from '../fixtures/tiny.js';

vi.mock('../../lib/runs/student-file.js', { spy: true });

const folder = temporaryFolder();
const run = join(folder, 'run');
let outcome: Outcome;
beforeAll(async () => {
  outcome = await train(
    smallConfig(await drawShapes(join(folder, 'images'), { count: 4 }), run, { train: { epochs: 1 } }),
  );
});
afterEach(() => vi.resetAllMocks());

const bytesOf = ({ buffer, byteOffset, byteLength }: NodeJS.ArrayBufferView) =>
  Buffer.from(buffer, byteOffset, byteLength);

test('the file has the weights of the run under torchvision names, and says what they are', async () => {
  const to = join(folder, 'student.safetensors');
  const result = await exportStudent({ from: run, to });
  const { tensors, metadata } = await readSafetensors(to);
  expect([...tensors.keys()].sort()).toEqual(Object.keys(outcome.weights).sort());
  for (const [name, values] of Object.entries(outcome.weights))
    expect(bytesOf(tensors.get(name)!.data).equals(bytesOf(values)), name).toBe(true);
  expect(tensors.get('features.0.0.weight')!.shape).toEqual([16, 3, 3, 3]);
  expect(tensors.get('head.2.weight')!.shape).toEqual([256, 1280]);
  expect(metadata).toMatchObject({
    format: 'lgdistill-student',
    version,
    architecture: 'mobilenet_v2',
    widthMultiplier: '0.35',
    embeddingSize: '256',
    resolution: '64',
    names: JSON.stringify(shapeNames),
    templates: '["{}"]',
    textEncoder: 'tiny-clip',
    teacher: 'tiny-clip',
  });
  expect(metadata['bankHash']).toMatch(/^[0-9a-f]{64}$/u);
  expect(JSON.parse(metadata['mean']!)).toHaveLength(3);
  expect(result).toMatchObject({
    file: to,
    head: 'keep',
    tensors: tensors.size,
    bytes: readFileSync(to).length,
    values: [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0),
  });
});

test('a student loaded from the file computes what the trained one does', async () => {
  const to = join(folder, 'again.safetensors');
  await exportStudent({ from: run, to });
  using device = await openDevice('cpu');
  const { student } = await files.loadStudent(to, { device });
  const trained = createStudent('mobilenet_v2', { device, embeddingSize: 256, widthMultiplier: 0.35 });
  trained.load(
    Object.fromEntries(
      Object.entries(student.weights).map(([name, { shape }]) => [name, { shape, data: outcome.weights[name]! }]),
    ),
  );
  const images = Float32Array.from({ length: 2 * 3 * 64 * 64 }, (_, i) => Math.cos(i / 50));
  const outputs = [];
  for (const one of [student, trained]) {
    using encoder = new Encoder(one.compile({ batch: 2, resolution: 64, training: false }));
    outputs.push(await encoder.forward(images));
  }
  expect(outputs[0]).toEqual(outputs[1]);
  expect(outputs[0]!.some((value) => value !== 0)).toBe(true);
});

test('without its head it is the backbone alone', async () => {
  const to = join(folder, 'backbone.safetensors');
  const { tensors: count } = await exportStudent({ from: run, to, head: 'drop' });
  const { tensors } = await readSafetensors(to);
  expect([...tensors.keys()].sort()).toEqual(
    Object.keys(outcome.weights)
      .filter((name) => !name.startsWith('head.'))
      .sort(),
  );
  expect(count).toBe(tensors.size);
});

test('the text bank goes beside it, and must be there', async () => {
  const bank = join(folder, 'classifier.safetensors');
  const { info } = await exportStudent({ from: run, to: join(folder, 'with-bank.safetensors'), bank });
  expect(await TextualSemanticsBank.load(bank)).toMatchObject({ names: shapeNames, hash: info.bankHash });
  const lone = join(folder, 'lone.safetensors');
  await exportStudent({ from: join(folder, 'with-bank.safetensors'), to: lone });
  await expect(
    exportStudent({ from: lone, to: join(folder, 'x.safetensors'), bank: join(folder, 'y.safetensors') }),
  ).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', option: 'bank' });
});

test('what it is made from, and what a checkpoint is made of, stays', async () => {
  const own = join(run, 'checkpoints', 'last', 'model.safetensors');
  const before = readFileSync(own);
  for (const format of ['lgdistill', 'torchvision'] as const)
    await expect(exportStudent({ from: run, to: own, format })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
      found: own,
    });
  const to = join(folder, 'copy.safetensors');
  await expect(exportStudent({ from: run, to, bank: own })).rejects.toMatchObject({ option: 'bank', found: own });
  await expect(exportStudent({ from: run, to, bank: to })).rejects.toMatchObject({ option: 'bank', found: to });
  await expect(exportStudent({ from: run, to, bank: '' })).rejects.toMatchObject({ option: 'bank', found: '' });
  await expect(
    exportStudent({ from: run, to: join(folder, 'copy.onnx'), format: 'onnx', classifier: '' }),
  ).rejects.toMatchObject({ option: 'classifier', found: '' });
  expect(existsSync(to)).toBe(false);
  expect(readFileSync(own).equals(before)).toBe(true);
  await exportStudent({ from: run, to });
  await expect(exportStudent({ from: to, to, head: 'drop' })).rejects.toMatchObject({ option: 'to', found: to });
});

test.each<[string, Parameters<typeof exportStudent>[0]]>([
  ['temperature', { from: run, to: join(folder, 'x.onnx'), format: 'onnx', temperature: 1 }],
  ['temperature', { from: run, to: join(folder, 'x.safetensors'), temperature: 1 }],
  ['fold', { from: run, to: join(folder, 'x.safetensors'), format: 'torchvision', fold: false }],
  ['images', { from: run, to: join(folder, 'x.safetensors'), images: run }],
])('an option that a format has no use for is refused: %s', async (option, options) => {
  await expect(exportStudent(options)).rejects.toMatchObject({ code: 'BAD_OPTION', option });
  expect(existsSync(options.to)).toBe(false);
});

test.each(['out/', '..', ' '])('a place without a name is not completed: %s', async (to) => {
  await expect(exportStudent({ from: run, to, format: 'onnx' })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    mend: expect.stringMatching(/^Name a file with \.onnx at its end/u) as string,
  });
});

const damage: [string, (weights: Parameters<typeof files.writeStudent>[2]) => void][] = [
  [
    'a number that changed',
    (weights) => {
      weights['features.3.conv.0.0.weight']!.data[5]! += 1e-6;
    },
  ],
  [
    'a tensor that is missing',
    (weights) => {
      delete weights['features.3.conv.0.0.weight'];
    },
  ],
  [
    'a tensor of another shape',
    (weights) => {
      weights['features.3.conv.0.0.weight']!.shape.reverse();
    },
  ],
];
test.each(damage)('a file with %s is not left behind, and an older one stays', async (_, spoil) => {
  const to = join(folder, 'spoilt.safetensors');
  await exportStudent({ from: run, to });
  const before = readFileSync(to);
  const { writeStudent } = await vi.importActual<typeof files>('../../lib/runs/student-file.js');
  vi.mocked(files.writeStudent).mockImplementation((file, info, weights) => {
    const copy = Object.fromEntries(
      Object.entries(weights).map(([name, { shape, data }]) => [name, { shape: [...shape], data: data.slice() }]),
    );
    spoil(copy);
    return writeStudent(file, info, copy);
  });
  await expect(exportStudent({ from: run, to })).rejects.toMatchObject({ code: 'EXPORT_FAILED' });
  await expect(exportStudent({ from: run, to: join(folder, 'never', 'this.safetensors') })).rejects.toMatchObject({
    code: 'EXPORT_FAILED',
  });
  expect(readFileSync(to).equals(before)).toBe(true);
  expect(existsSync(join(folder, 'never'))).toBe(false);
  expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});

test('what a killed export left in the place of the same file goes once it is an hour old', async () => {
  const to = join(folder, 'killed.safetensors');
  const [old, inner, fresh, other] = [
    '.killed.safetensors.0123456789ab.tmp',
    '..killed.safetensors.0123456789ab.tmp.ba9876543210.tmp',
    '.killed.safetensors.cdef01234567.tmp',
    '.other.safetensors.0123456789ab.tmp',
  ].map((name) => join(folder, name));
  mkdirSync(old!);
  for (const file of [join(old!, 'config.json'), inner!, fresh!, other!]) writeFileSync(file, 'x');
  for (const file of [old!, inner!, other!]) utimesSync(file, 1e9, 1e9);
  await exportStudent({ from: run, to });
  expect([old, inner, fresh, other].map((file) => existsSync(file!))).toEqual([false, false, true, true]);
  for (const file of [fresh!, other!]) rmSync(file);
});

test.each<ExportFormat>(['lgdistill', 'torchvision', 'onnx', 'transformers', 'timm'])(
  '%s is written into folders that are not there yet, as a bank beside it is',
  async (format) => {
    const [to, bank] = [
      join(folder, 'deep', format, defaultOutput(format)),
      join(folder, 'deep', `${format}-bank`, 'bank.safetensors'),
    ];
    await exportStudent({ from: run, to, format, bank });
    expect([existsSync(to), existsSync(bank)]).toEqual([true, true]);
  },
);

test('what cannot be exported is said', async () => {
  const to = join(folder, 'none.safetensors');
  await expect(exportStudent({ from: join(folder, 'nowhere'), to })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(exportStudent({ from: run, to: join(run, 'config.json', 'none.safetensors') })).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
  });
  await expect(exportStudent({ from: run, to, signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  expect(existsSync(to)).toBe(false);
});
