/**
 * What a user's strict code may and may not write: compiled against the package's declarations by consumer.test.ts,
 * never run.
 */
import {
  bankLoss,
  BatchPlan,
  CategoryList,
  configOptions,
  createEncoder,
  createStudent,
  Distiller,
  evaluateStudent,
  ImageCache,
  imagesFromBuffers,
  LgdError,
  loadTeacher,
  openDevice,
  loadTextEncoder,
  parseConfig,
  prepareRun,
  readViews,
  StreamedImages,
  TextualSemanticsBank,
  type BankLossOutput,
  type Batch,
  type Config,
  type ConfigInput,
  type CustomTeacherApi,
  type Dataset,
  type ErrorCode,
  type RunEvent,
  type TextEncoder,
} from 'lgdistill';

/** Compiles where two types are one. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <Check extends true>(...check: Check[]): void => void check;

export async function allowed(encoder: TextEncoder, student: Float32Array): Promise<void> {
  using device = await openDevice('cuda:1', { threads: 4 });
  const names = await CategoryList.load(['a', 'b']);
  const tsb = await TextualSemanticsBank.build(names, { encoder, templates: ['a photo of a {}.'] });
  const output = await bankLoss(
    {
      student,
      teacher: student,
      textual: tsb.data,
      dimension: 3,
      studentTemperature: 0.2,
      teacherTemperature: 0.01,
      alpha: 0,
    },
    { device: 'js' },
  );
  output.loss.toFixed();
  same<Same<typeof output, BankLossOutput>>();
  same<Same<typeof output.gradient, Float32Array>>();

  await using teacher = await loadTeacher('./clip', { device });
  if (teacher.kind === 'precomputed') teacher.lookup(['a.png']);
  else await teacher.embed(student, 1);

  const config: Config = parseConfig({ train: { epochs: 3 }, method: 'hybrid' });
  same<Same<Config['method'], 'auto' | 'lgd' | 'text' | 'visual' | 'seed' | 'hybrid' | 'combined' | 'feature'>>();
  const distiller = new Distiller({
    device,
    teacher,
    student: createStudent('resnet18', { device, embeddingSize: teacher.embeddingSize }),
    tsb,
    config,
  });
  const images = await ImageCache.build(imagesFromBuffers([{ id: 'a', bytes: new Uint8Array(1) }]), {
    device,
    resolution: 8,
    margin: 1,
    memoryLimitBytes: 0,
    spillFolder: '.',
    maxBrokenShare: 0,
  });
  for (const batch of new BatchPlan(images, { batchSize: 1, seed: 0 })) batch.images satisfies Int32Array;
  for await (const event of distiller.run(images, { signal: AbortSignal.timeout(1) })) {
    same<Same<typeof event, RunEvent>>();
    if (event.type === 'step') event.klTextual.toFixed();
    if (event.type === 'evaluation') event.teacher?.top1.toFixed();
  }
  await using run = await prepareRun(
    { names: 'coco' },
    { onProgress: ({ phase, done, total }) => `${phase} ${done / total}` },
  );
  run.tsb?.hash.at(0);
  same<Same<typeof run.tsb, TextualSemanticsBank | undefined>>();
  const score = await evaluateStudent({ student: 'runs/first', config: { evaluate: { data: 'x' } } });
  score.student.interval1 satisfies [number, number];
  const net = await createEncoder('mobilenet_v2', { device, outputs: 3 });
  same<Same<Awaited<ReturnType<typeof net.backward>>, Record<string, Float32Array>>>();
  configOptions().map(({ path }) => path.toUpperCase());
  try {
    net.dispose();
  } catch (error) {
    if (error instanceof LgdError) error.code satisfies ErrorCode;
  }
}

/** What a program has of its own: constants, a teacher, images. */
export async function own(signal: AbortSignal | undefined): Promise<void> {
  using device = await openDevice();
  const config = {
    names: ['a', 'b'],
    templates: ['a {}.'],
    method: 'feature',
    train: { epochs: 3 },
  } as const satisfies ConfigInput;
  const mean = [0.5, 0.5, 0.5] as const;
  const teacher: CustomTeacherApi = {
    kind: 'custom',
    id: 'own',
    embeddingSize: 8,
    resolution: 32,
    mean,
    std: mean,
    embed: async (_, batch) => new Float32Array(8 * batch),
    fingerprint: async () => 'own',
    dispose: async () => undefined,
    [Symbol.dispose]: () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
  using distiller = new Distiller({
    device,
    teacher,
    student: createStudent('resnet18', { device, embeddingSize: 8 }),
    config,
  });
  const source = { root: 'mine', ids: ['a'], read: async () => new Uint8Array(3) };
  using images = await ImageCache.build(source, {
    device,
    resolution: 32,
    margin: 1,
    memoryLimitBytes: 0,
    spillFolder: '.',
    maxBrokenShare: 0,
    signal,
  });
  await readViews(images, { images: Int32Array.of(0) }, { device, resolution: 32, mean, std: mean, augment: false });
  for await (const event of distiller.run(images, { signal })) {
    switch (event.type) {
      case 'start':
      case 'step':
      case 'waiting':
      case 'evaluation':
      case 'checkpoint':
      case 'interrupted':
      case 'done':
        break;
      default:
        event satisfies never;
    }
  }
  await using run = await prepareRun(config, { signal });
  void run;
}

/** What a program passes on, set or not. */
export async function unset(
  distiller: Distiller,
  student: Float32Array,
  given: { bank?: Float32Array; labels?: Int32Array; folder?: string; size?: number },
): Promise<void> {
  const { bank, labels, folder, size } = given;
  const source = { root: 'mine', ids: ['a'], read: async () => new Uint8Array(3) };
  using device = await openDevice();
  using images = await StreamedImages.open(source, { device, resolution: 32, margin: 1, maxBrokenShare: 0 });
  for await (const event of distiller.run(images)) event satisfies RunEvent;
  images satisfies Dataset;
  ({
    ...new BatchPlan(images, { batchSize: 1, seed: 0 }).next(),
    dataset: { length: 1, ids: ['a'], sourceIndex: Int32Array.of(0), store: images.store, labels, broken: undefined },
    shown: undefined,
  }) satisfies Batch;
  await bankLoss(
    {
      student,
      teacher: student,
      textual: bank,
      visual: bank,
      queue: bank,
      dimension: 3,
      studentTemperature: 0.2,
      teacherTemperature: 0.01,
      alpha: 1,
    },
    { device },
  );
  await using encoder = await loadTextEncoder('./clip', {
    batchSize: size,
    cacheDir: folder,
    device: undefined,
    precision: undefined,
    localFilesOnly: undefined,
    onProgress: undefined,
  });
  await TextualSemanticsBank.build(['a'], { encoder, templates: folder, allowDuplicates: undefined });
}

export async function refused(encoder: TextEncoder): Promise<void> {
  // @ts-expect-error a device of this name does not exist
  const device = await openDevice('gpu');
  const numbers = { dimension: 2, studentTemperature: 1, teacherTemperature: 1, alpha: 1 };
  const [student, teacher] = [new Float32Array(2), new Float32Array(2)];
  // @ts-expect-error typed arrays in, never number[]
  await bankLoss({ ...numbers, teacher, student: [1, 2] }, { device });
  // @ts-expect-error the device is not left to chance
  await bankLoss({ ...numbers, teacher, student });
  // @ts-expect-error a slip in an option's name
  await prepareRun({ train: { batchSise: 1 } });
  // @ts-expect-error the embedding size is needed
  createStudent('resnet18', { device });
  // @ts-expect-error results are not to be written to
  (await CategoryList.load('coco')).names.push('cat');
  // @ts-expect-error there is no such method
  await prepareRun({ method: 'clip' });
  // @ts-expect-error an event of one kind has not the fields of another
  const loss = (event: RunEvent) => event.loss;
  void [encoder, loss];
}
