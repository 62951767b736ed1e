import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { openDevice } from '../../lib/device.js';
import { drawnImages, engineEmbeddings } from '../../lib/export/compare.js';
import { exportStudent, exportTarget } from '../../lib/export/student.js';
import * as safetensors from '../../lib/files/safetensors.js';
import { CompiledEncoder } from '../../lib/models/compiled.js';
import { Encoder } from '../../lib/models/encoder.js';
import { featureGraph, weightsOf } from '../../lib/models/features.js';
import { createStudent, listStudents, loadTeacher, studentGraph } from '../../lib/models/index.js';
import { isProjection, type StudentFamily } from '../../lib/models/students/definition.js';
import { findStudent } from '../../lib/models/students/registry.js';
import { namings } from '../../lib/models/tools/families.js';
import type { Tool } from '../../lib/models/tools/naming.js';
import type { WeightRecord } from '../../lib/models/weights.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { loadStartWeights } from '../../lib/train/start-weights.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { relativeError } from '../fixtures/semantic/cases.js';
import { isNamed, madeUpStudent, writeMadeUpStudent } from '../fixtures/student.js';
import { noteSkip, testPath } from '../shared.js';

vi.mock('../../lib/files/safetensors.js', { spy: true });

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
/** One of each family: test/unit/tool-names.test.ts has the names of all. */
const ofFamilies: Record<StudentFamily, { name: string; widthMultiplier?: number; lackedBy: Tool[] }> = {
  resnet: { name: 'resnet18', lackedBy: [] },
  mobilenet_v2: { name: 'mobilenet_v2', widthMultiplier: 0.35, lackedBy: ['detectron2'] },
  mobilenet_v3: { name: 'mobilenet_v3_small', lackedBy: ['mmdet', 'detectron2'] },
  mobilenet_v4: { name: 'mobilenetv4_conv_small', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
  efficientnet: { name: 'efficientnet_b0', lackedBy: ['mmseg', 'detectron2'] },
  efficientnet_v2: { name: 'efficientnet_v2_s', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
  tf_efficientnetv2: { name: 'tf_efficientnetv2_b0', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
  convnext: { name: 'convnext_atto', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
  efficientnet_lite: { name: 'efficientnet_lite0', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
  vit: { name: 'vit_tiny_patch16_224', lackedBy: ['mmdet', 'mmseg', 'detectron2'] },
};
const students = Object.values(ofFamilies).map(
  ({ name, widthMultiplier = 1, lackedBy }) => [name, widthMultiplier, lackedBy] as const,
);
/** The weights in the files of these. */
const written: Record<string, WeightRecord> = {};
beforeAll(async () => {
  for (const [name, widthMultiplier] of students)
    ({ weights: written[name] } = await writeMadeUpStudent(at(`${name}.safetensors`), name, { widthMultiplier }));
});
afterEach(() => vi.resetAllMocks());

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength);
const floats = (file: string) => new Float32Array(Uint8Array.from(readFileSync(file)).buffer);

describe.each(['timm', 'mmdet', 'mmseg', 'detectron2'] as const)('%s', (tool) => {
  test.each(students)(
    '%s: written and compared, and a start again; or said to be lacking',
    async (name, widthMultiplier, lackedBy) => {
      const [from, to] = [at(`${name}.safetensors`), at(`${name}-${tool}`)];
      if (lackedBy.includes(tool)) {
        await expect(exportStudent({ from, to, format: tool })).rejects.toMatchObject({
          code: 'BAD_OPTION',
          option: 'to',
          found: expect.stringContaining(name) as unknown,
        });
        expect(existsSync(to)).toBe(false);
        return;
      }
      const result = await exportStudent({ from, to, format: tool });
      expect(result).toMatchObject({ head: 'drop', format: tool });
      expect(result.comparison.cosine).toBeGreaterThan(0.99999);
      expect(readdirSync(to).sort()).toEqual([
        tool === 'detectron2' ? 'config.yaml' : 'config.json',
        'model.safetensors',
      ]);
      const weights = written[name]!;
      using device = await openDevice('cpu');
      const student = createStudent(name, { device, embeddingSize: 24, widthMultiplier, seed: 9, resolution: 64 });
      await loadStartWeights(student, join(to, 'model.safetensors'));
      for (const [parameter, { data }] of Object.entries(weights)) {
        const isThere =
          !isProjection(parameter) &&
          !(tool === 'mmseg' && name === 'mobilenet_v2' && parameter.startsWith('features.18.'));
        const difference = relativeError(student.weights[parameter]!.data, data);
        if (isThere) expect(difference, parameter).toBeLessThan(1e-6);
        else if (parameter.endsWith('weight')) expect(difference, parameter).toBeGreaterThan(0.1); // its own seeded start
      }
    },
  );
});

describe('PyTorch', () => {
  /**
   * Python with torchvision, which is imported once and then asked for one export after the other; undefined where
   * there is none.
   */
  async function startPython() {
    for (const command of ['/usr/bin/python3', 'python3']) {
      const child = spawn(command, [testPath('fixtures', 'export', 'check_pytorch.py')], {
        stdio: ['pipe', 'pipe', 'ignore'],
      });
      // what is missing is seen in what it prints
      for (const stream of [child, child.stdin]) stream.on('error', () => undefined);
      const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
      if ((await lines.next()).value !== '"ready"') continue;
      const ask = async (...files: string[]) => {
        child.stdin.write(`${JSON.stringify(files)}\n`);
        return JSON.parse((await lines.next()).value ?? '"Python ended"') as string;
      };
      return { ask, end: () => child.stdin.end() };
    }
    return undefined;
  }
  let python: ReturnType<typeof startPython> | undefined;
  afterAll(async () => (await python)?.end());

  /**
   * By the names that are this package's own: torchvision's, or timm's of a network of test/fixtures/networks.py.
   */
  const each = listStudents().map((name, i) => {
    const { family, scalable } = findStudent(name);
    const tool = namings[family].torchvision === undefined ? 'timm' : 'torchvision';
    const width = [0.75, 0.5].find((width) => scalable && isNamed(tool, name, width)) ?? 1;
    return [name, tool, i % 2 === 0 ? 'keep' : 'drop', width] as const;
  });
  test.each([...each, ['mobilenet_v3_small', 'torchvision', 'keep', 1] as const])(
    '%s loads from %s strictly, head %s, width %s: the same outputs',
    async (name, format, head, widthMultiplier) => {
      const [from, to] = [at(`${name}-${widthMultiplier}.safetensors`), at(`${name}-${head}-${format}.safetensors`)];
      const { info, weights } = await writeMadeUpStudent(from, name, { widthMultiplier });
      await exportStudent({ from, to, format, head });
      const loader = await (python ??= startPython());
      if (loader === undefined) return noteSkip(`strict loading of ${name}`, 'no Python with torchvision here');
      const pixels = drawnImages(info.resolution, 2);
      writeFileSync(at('pixels'), bytesOf(pixels));
      expect(
        await loader.ask(format === 'timm' ? join(to, 'model.safetensors') : to, at('pixels'), at('outputs')),
      ).toBe('done');
      expect(
        relativeError(
          floats(at('outputs')),
          head === 'keep'
            ? await engineEmbeddings(info, weights, { pixels, count: 2 })
            : await features(name, weights, pixels, widthMultiplier),
        ),
      ).toBeLessThan(1e-4);
    },
  );

  async function features(
    name: string,
    weights: WeightRecord,
    pixels: Float32Array,
    widthMultiplier: number,
  ): Promise<Float32Array> {
    using device = await openDevice('cpu');
    const graph = featureGraph(studentGraph(name, { embeddingSize: 24, widthMultiplier, resolution: 64 }));
    const compiled = new CompiledEncoder(device, graph, { batch: 2, resolution: 64, training: false });
    compiled.load(weightsOf(graph, weights));
    using encoder = new Encoder(compiled);
    return encoder.forward(pixels);
  }

  test('with its head it is a student to this package', async () => {
    const to = at('again.safetensors');
    await exportStudent({ from: at('mobilenet_v2.safetensors'), to, format: 'torchvision' });
    const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    const found = await readStudent(to);
    expect(found).toMatchObject({ file: to, info });
    expect(Object.keys(found.weights).sort()).toEqual(Object.keys(weights).sort());
    for (const [name, { shape, data }] of Object.entries(found.weights))
      expect([shape, bytesOf(data).equals(bytesOf(weights[name]!.data))], name).toEqual([weights[name]!.shape, true]);
  });

  test('a classifier of torchvision is left out, and a file of another student is refused with what does not fit', async () => {
    using device = await openDevice('cpu');
    const { weights } = madeUpStudent('mobilenet_v3_small');
    const backbone = Object.entries(weights).filter(([name]) => !name.startsWith('head.'));
    const classifier = {
      'classifier.0.weight': [1024, 576],
      'classifier.0.bias': [1024],
      'classifier.3.weight': [1000, 1024],
      'classifier.3.bias': [1000],
    };
    const file = at('torchvision.safetensors');
    await safetensors.writeSafetensors(
      file,
      [
        ...backbone,
        ...Object.entries(classifier).map(
          ([name, shape]) =>
            [name, { shape, data: new Float32Array(shape.reduce((a, b) => a * b)) }] as [
              string,
              safetensors.TensorRecord,
            ],
        ),
      ],
      {},
    );
    const student = createStudent('mobilenet_v3_small', { device, embeddingSize: 24 });
    await loadStartWeights(student, file);
    expect(student.weights['features.0.0.weight']!.data).toEqual(weights['features.0.0.weight']!.data);
    await expect(
      loadStartWeights(createStudent('mobilenet_v3_large', { device, embeddingSize: 24 }), file),
    ).rejects.toMatchObject({ code: 'BAD_MODEL', option: 'student.weights' });
    await expect(loadStartWeights(createStudent('resnet18', { device, embeddingSize: 24 }), file)).rejects.toThrowError(
      /missing: conv1\.weight/u,
    );
  });

  test.each([
    ['mobilenetv4_conv_small', 'classifier', 1280, 'norm_head'],
    ['mobilenetv4_conv_medium', 'classifier', 1280, 'norm_head'],
    ['efficientnet_lite0', 'classifier', 1280, 'bn2'],
    ['tf_efficientnetv2_b0', 'classifier', 1280, 'bn2'],
    ['convnext_atto', 'head.fc', 320, undefined],
  ])("a checkpoint of timm's %s is a start but for its %s", async (name, place, size, norm) => {
    using device = await openDevice('cpu');
    const { weights } = madeUpStudent(name);
    const classifier = {
      [`${place}.weight`]: { shape: [1000, size], data: new Float32Array(1000 * size) },
      [`${place}.bias`]: { shape: [1000], data: new Float32Array(1000) },
    };
    const file = at('checkpoint-timm.safetensors');
    const counters: Record<string, safetensors.TensorRecord> =
      norm === undefined ? {} : { [`${norm}.num_batches_tracked`]: { shape: [], data: BigInt64Array.of(3n) } };
    const backbone = Object.entries(weights).filter(([parameter]) => !isProjection(parameter));
    await safetensors.writeSafetensors(
      file,
      Object.entries({ ...Object.fromEntries(backbone), ...classifier, ...counters }),
      {},
    );
    const student = createStudent(name, { device, embeddingSize: 24, seed: 9 });
    await loadStartWeights(student, file);
    for (const [parameter, { data }] of Object.entries(weights))
      if (!isProjection(parameter))
        expect(bytesOf(student.weights[parameter]!.data).equals(bytesOf(data)), parameter).toBe(true);
  });

  test('weights of float64 are rounded, and one that is no finite number is told before a step is', async () => {
    using device = await openDevice('cpu');
    const { weights } = madeUpStudent('mobilenet_v3_small');
    const file = at('double.safetensors');
    await safetensors.writeSafetensors(
      file,
      Object.entries(weights).map(([name, { shape, data }]) => [name, { shape, data: Float64Array.from(data) }]),
      {},
    );
    const student = createStudent('mobilenet_v3_small', { device, embeddingSize: 24 });
    await loadStartWeights(student, file);
    expect(student.weights['head.2.bias']!.data).toEqual(weights['head.2.bias']!.data);
    const diverged = {
      ...weights,
      'features.3.block.1.1.bias': {
        ...weights['features.3.block.1.1.bias']!,
        data: weights['features.3.block.1.1.bias']!.data.map((value, i) => (i === 3 ? NaN : value)),
      },
    };
    await safetensors.writeSafetensors(file, Object.entries(diverged), {});
    await expect(loadStartWeights(student, file)).rejects.toThrowError(
      /features\.3\.block\.1\.1\.bias has a value that is no finite number/u,
    );
  });
});

test('timm: config.json says what create_model needs', async () => {
  const to = at('named-timm');
  await exportStudent({ from: at('mobilenet_v3_small.safetensors'), to, format: 'timm' });
  expect(JSON.parse(readFileSync(join(to, 'config.json'), 'utf8'))).toMatchObject({
    architecture: 'mobilenetv3_small_100',
    num_classes: 0,
    pretrained_cfg: {
      input_size: [3, 64, 64],
      mean: [0.48, 0.46, 0.41],
      std: [0.27, 0.26, 0.28],
      interpolation: 'bicubic',
      crop_pct: 1,
      first_conv: 'conv_stem',
      classifier: 'classifier',
    },
  });
  await expect(
    exportStudent({ from: at('mobilenet_v3_small.safetensors'), to, format: 'timm', head: 'keep' }),
  ).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'head' });
  // an earlier export is replaced
  await exportStudent({ from: at('mobilenet_v2.safetensors'), to, format: 'timm', head: 'keep' });
  const { tensors } = await safetensors.readSafetensors(join(to, 'model.safetensors'));
  expect(
    ['classifier.0.weight', 'classifier.2.bias', 'bn2.num_batches_tracked'].map((name) => tensors.get(name)!.shape),
  ).toEqual([[1280, 1280], [24], []]);
  await writeMadeUpStudent(at('narrow.safetensors'), 'mobilenet_v2', { widthMultiplier: 0.6 });
  await expect(exportStudent({ from: at('narrow.safetensors'), to, format: 'timm' })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    found: 'mobilenet_v2 x 0.6',
    allowed: 'mobilenet_v2 at width 0.35, 0.5, 0.75, 1, 1.4',
  });
});

test('mmdet, mmseg and detectron2: configurations name backbone, weights and pixels', async () => {
  const to = relative('', at('named-mmdet')); // by the name that was given, so that all of it can be moved
  await exportStudent({ from: at('efficientnet_b0.safetensors'), to, format: 'mmdet' });
  const { model } = JSON.parse(readFileSync(at('named-mmdet', 'config.json'), 'utf8')) as {
    model: Record<string, unknown>;
  };
  expect(model).toMatchObject({
    data_preprocessor: { mean: [122.4, 117.3, 104.55], std: [68.85, 66.3, 71.4], bgr_to_rgb: true },
    backbone: {
      _delete_: true,
      type: 'EfficientNet',
      arch: 'b0',
      conv_cfg: null,
      norm_cfg: { type: 'BN' },
      init_cfg: { type: 'Pretrained', checkpoint: join(to, 'model.pth'), prefix: 'backbone' },
    },
  });
  await exportStudent({ from: at('mobilenet_v3_small.safetensors'), to: at('named-mmseg'), format: 'mmseg' });
  expect(JSON.parse(readFileSync(at('named-mmseg', 'config.json'), 'utf8'))).toMatchObject({
    model: { backbone: { type: 'MobileNetV3', arch: 'small', norm_cfg: { eps: 0.001 } } },
  });
  await exportStudent({ from: at('resnet18.safetensors'), to: at('named-d2'), format: 'detectron2' });
  const yaml = readFileSync(at('named-d2', 'config.yaml'), 'utf8');
  for (const line of [
    '  PIXEL_MEAN: [122.4, 117.3, 104.55]',
    '    DEPTH: 18',
    '    RES2_OUT_CHANNELS: 64',
    '  FORMAT: "RGB"',
  ])
    expect(yaml).toContain(`${line}\n`);
  await exportStudent({ from: at('resnet18.safetensors'), to: at('named-d2'), format: 'detectron2' }); // replaced
});

const damage: [string, (tensors: Map<string, safetensors.TensorRecord>) => void][] = [
  ['a key that is missing', (tensors) => tensors.delete('layer1.0.bn1.running_mean')],
  ['a key too many', (tensors) => tensors.set('fc.weight', { shape: [1], data: new Float32Array(1) })],
  [
    'a counter of another type',
    (tensors) => tensors.set('bn1.num_batches_tracked', { shape: [], data: new Float32Array(1) }),
  ],
  [
    'weights of another layer',
    (tensors) => tensors.set('layer1.0.conv1.weight', tensors.get('layer1.1.conv1.weight')!),
  ],
];
test.each(damage)('a file with %s is not left behind', async (_, spoil) => {
  const { encodeSafetensors } = await vi.importActual<typeof safetensors>('../../lib/files/safetensors.js');
  vi.mocked(safetensors.encodeSafetensors).mockImplementation((tensors, metadata) => {
    const copy = new Map(tensors);
    spoil(copy);
    return encodeSafetensors(copy, metadata);
  });
  await expect(
    exportStudent({ from: at('resnet18.safetensors'), to: at('spoilt'), format: 'timm' }),
  ).rejects.toMatchObject({ code: 'EXPORT_FAILED' });
  expect(readdirSync(folder).filter((name) => name.includes('spoilt'))).toEqual([]);
});

test('a word that is no format is not taken for a file', () => {
  expect(exportTarget('timm')).toEqual({ format: 'timm', to: 'student-timm' });
  expect(exportTarget('torchvision', 'x.safetensors')).toEqual({ format: 'torchvision', to: 'x.safetensors' });
  expect(exportTarget('./student.safetensors')).toEqual({ format: 'lgdistill', to: './student.safetensors' });
  expect(() => exportTarget('tim')).toThrowError(/Did you mean timm/u);
  expect(() => exportTarget('x.safetensors', 'y.safetensors')).toThrowError(/the file is named already/u);
});

test.each([
  ['out/student.onnx', 'For ONNX: --to onnx --output out/student.onnx'],
  ['student.pth', 'For PyTorch: --to torchvision --output student.safetensors'],
  ['out/student', 'Name a file with .safetensors at its end'],
  ['student.safetensors.txt', 'Name a file with .safetensors at its end'],
])('%s is no file for this package', (word, mend) => {
  expect(() => exportTarget(word)).toThrowError(
    expect.objectContaining({ code: 'BAD_OPTION', option: 'to', found: word, mend }) as Error,
  );
});

describe('a file in the place of an export', () => {
  const from = at('mobilenet_v3_small.safetensors');
  const refused = async (options: Partial<Parameters<typeof exportStudent>[0]> & { to: string }, details: object) => {
    await expect(exportStudent({ from, ...options })).rejects.toMatchObject({ code: 'BAD_OPTION', ...details });
  };

  test('is replaced where it is of the same kind', async () => {
    const [own, onnx] = [at('twice.safetensors'), at('twice.onnx')];
    for (let i = 0; i < 2; i++) {
      await exportStudent({ from, to: own });
      await exportStudent({ from, to: onnx, format: 'onnx' });
    }
    expect(
      readdirSync(folder)
        .filter((name) => name.includes('twice'))
        .sort(),
    ).toEqual(['twice.onnx', 'twice.safetensors']);
  });

  test('is left alone where it is of another, before anything is exported', async () => {
    const text = 'by hand';
    for (const name of ['kept.safetensors', 'kept.onnx', 'kept.txt']) writeFileSync(at(name), text);
    await refused({ to: at('kept.safetensors') }, { option: 'to', found: at('kept.safetensors') });
    await refused({ to: at('kept.safetensors'), format: 'torchvision' }, { option: 'to' });
    await refused(
      { to: at('kept.onnx'), format: 'onnx' },
      {
        option: 'to',
        message: expect.stringMatching(
          /which is not an ONNX file.*Choose another place \(on the command line: --output\), or/u,
        ) as unknown,
      },
    );
    await refused({ to: at('unwritten.safetensors'), bank: at('kept.txt') }, { option: 'bank', found: at('kept.txt') });
    for (const name of ['kept.safetensors', 'kept.onnx', 'kept.txt']) expect(readFileSync(at(name), 'utf8')).toBe(text);
    expect(existsSync(at('unwritten.safetensors'))).toBe(false);
  });

  test('of another ending is not written', async () => {
    await refused({ to: at('named.onnx') }, { option: 'to', mend: `Write ${at('named.safetensors')}` });
    await refused(
      { to: at('named'), format: 'onnx' },
      { option: 'to', mend: `Write ${at('named.onnx')} (on the command line: --output)` },
    );
    expect(readdirSync(folder).filter((name) => name.startsWith('named.'))).toEqual([]);
  });
});

describe('a student is a teacher, however it was exported', () => {
  test.each(['lgdistill', 'torchvision', 'onnx', 'transformers', 'timm'] as const)('%s', async (format) => {
    const to = at(
      {
        lgdistill: 'teacher.safetensors',
        torchvision: 'teacher-tv.safetensors',
        onnx: 'teacher.onnx',
        transformers: 'teacher-hf',
        timm: 'teacher-timm',
      }[format],
    );
    const { info, weights } = madeUpStudent('mobilenet_v2', { widthMultiplier: 0.35 });
    await exportStudent({ from: at('mobilenet_v2.safetensors'), to, format, head: 'keep' });
    using device = await openDevice('cpu');
    await using teacher = await loadTeacher(to, { device });
    expect(teacher).toMatchObject({
      kind: format === 'onnx' || format === 'transformers' ? 'onnx' : 'native',
      embeddingSize: 24,
      resolution: 64,
      mean: info.mean,
      std: info.std,
    });
    const pixels = drawnImages(64, 2);
    const found = await (teacher as Exclude<typeof teacher, { kind: 'precomputed' }>).embed(pixels, 2);
    expect(relativeError(found, await engineEmbeddings(info, weights, { pixels, count: 2 }))).toBeLessThan(1e-4);
    await using other = await loadTeacher(to, { device, mean: [0, 0, 0], std: [1, 1, 1] });
    expect(other).toMatchObject({ mean: [0, 0, 0], std: [1, 1, 1], resolution: 64 });
  });

  test('without its head it is none', async () => {
    const to = at('headless.safetensors');
    await exportStudent({ from: at('mobilenet_v2.safetensors'), to, head: 'drop' });
    using device = await openDevice('cpu');
    await expect(loadTeacher(to, { device })).rejects.toMatchObject({ code: 'BAD_MODEL', option: 'teacher' });
  });
});
