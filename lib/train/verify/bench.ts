/** A device with all that steps on made-up images need: what {@link verifyDevice} compares with another's. */
import type { TextualSemanticsBank } from '../../banks/textual.js';
import type { Config, ConfigInput } from '../../config/config.js';
import { checkSide } from '../../config/students.js';
import { BatchPlan, type PlannedBatch } from '../../data/loader.js';
import { readViews } from '../../data/views.js';
import type { Device } from '../../device.js';
import { throwIfAborted } from '../../errors.js';
import { compileBatch, type Precision } from '../../models/compiled.js';
import { Encoder } from '../../models/encoder.js';
import type { CustomTeacherApi, NativeTeacher } from '../../models/index.js';
import { optimizerOf } from '../../models/optimizer.js';
import { createStudent, type Student } from '../../models/student.js';
import type { WeightRecord } from '../../models/weights.js';
import { configuredTeacher } from '../../runs/configured-teacher.js';
import type { Dataset } from '../batch.js';
import { Distiller, type DistillerState } from '../distiller.js';
import { madeUpBank, madeUpImages, madeUpTeacher } from '../made-up.js';

const defaultBatch = 32; // each step is taken on the CPU, too
const learningRates = { sgd: 0.03, adamw: 0.001 };

/** What a step leaves. */
export interface Taken {
  loss: number;
  state: DistillerState;
}

/** A device with images, names and a teacher. */
export class Bench {
  readonly #device: Device;
  readonly #config: Config;
  readonly #batch: number;
  readonly #resolution: number;
  readonly #teacher: NativeTeacher | CustomTeacherApi;
  readonly #images: Dataset;
  readonly #names: TextualSemanticsBank;

  private constructor(device: Device, config: Config, teacher: NativeTeacher | CustomTeacherApi, categories: number) {
    const { data, train } = config;
    [this.#device, this.#config, this.#teacher] = [device, config, teacher];
    this.#batch = train.batchSize === 'auto' ? defaultBatch : train.batchSize;
    this.#resolution = data.resolution ?? teacher.resolution;
    checkSide(config, this.#resolution, [config.student.name]);
    // before images are made for what does not fit
    compileBatch('train.batchSize', this.#batch, () =>
      this.#student().compile({
        batch: this.#batch,
        resolution: this.#resolution,
        precision: 'float32',
        training: true,
        optimizer: optimizerOf(config),
      }),
    ).dispose();
    this.#names = madeUpBank(categories, teacher.embeddingSize);
    this.#images = madeUpImages(device, this.#batch, this.#resolution + 8);
  }

  /** @throws LgdError of the teacher; OUT_OF_MEMORY, BAD_OPTION */
  static async open(
    device: Device,
    config: Config,
    { categories, dimension, signal }: { categories: number; dimension: number; signal: AbortSignal | undefined },
  ): Promise<Bench> {
    const { teacher: source, data } = config;
    const teacher = source === undefined ? undefined : await configuredTeacher(source, config, { device, signal });
    const isNative = teacher?.kind === 'native';
    try {
      return new Bench(
        device,
        config,
        isNative
          ? teacher
          : madeUpTeacher(teacher?.embeddingSize ?? dimension, data.resolution ?? teacher?.resolution ?? 224),
        categories,
      );
    } catch (error) {
      if (isNative) await teacher.dispose();
      throw error;
    } finally {
      if (!isNative) await teacher?.dispose();
    }
  }

  plan(): BatchPlan {
    return new BatchPlan(this.#images, { batchSize: this.#batch, seed: this.#config.seed });
  }

  /** [B,3,R,R] of the first batch; R is the student's side, or the teacher's. */
  async views(of: 'student' | 'teacher'): Promise<Float32Array> {
    const { mean, std, resolution } = this.#teacher;
    return readViews(this.#images, this.plan().next(), {
      device: this.#device,
      resolution: of === 'student' ? this.#resolution : resolution,
      mean,
      std,
      augment: this.#config.augment,
    });
  }

  distiller(precision: Precision): Distiller {
    const { method, seed, loss, augment, train } = this.#config;
    const config: ConfigInput = {
      method,
      seed,
      loss,
      augment,
      data: { resolution: this.#resolution },
      train: { ...train, batchSize: this.#batch, accumulate: 1, precision },
    };
    return new Distiller({
      device: this.#device,
      teacher: this.#teacher,
      student: this.#student(),
      tsb: this.#names,
      config,
    });
  }

  /** One step from a state. */
  async step(distiller: Distiller, from: DistillerState, batch: PlannedBatch, step: number): Promise<Taken> {
    distiller.restore(from);
    const { loss } = await distiller.readMetrics(
      await distiller.queueStep([{ ...batch, dataset: this.#images }], { step, learningRate: this.learningRate }),
    );
    return { loss, state: await distiller.state() };
  }

  /** What steps from the start leave, each queued as in training or waiting for each of its parts. */
  async freely(
    precision: Precision,
    steps: number,
    callByCall: boolean,
    signal: AbortSignal | undefined,
  ): Promise<DistillerState> {
    using distiller = this.distiller(precision);
    const plan = this.plan();
    for (let step = 0; step < steps; step++) {
      throwIfAborted(signal, 'the comparison');
      await distiller.queueStep([{ ...plan.next(), dataset: this.#images }], {
        step,
        learningRate: this.learningRate,
        ...(callByCall && { after: async () => this.#device.synchronize() }),
      });
    }
    return distiller.state();
  }

  /** The teacher's embeddings [B,D] of its views; undefined: it computes elsewhere. */
  async teach(views: Float32Array, precision: Precision): Promise<Float32Array | undefined> {
    if (this.#teacher.kind !== 'native') return undefined;
    using encoder = new Encoder(this.#teacher.compile({ batch: this.#batch, precision }));
    return encoder.forward(views);
  }

  /** A student's embeddings [B,D], as evaluations have them. */
  async embed(views: Float32Array, weights: WeightRecord, precision: Precision): Promise<Float32Array> {
    const student = this.#student();
    student.load(weights);
    using encoder = new Encoder(
      student.compile({ batch: this.#batch, resolution: this.#resolution, precision, training: false }),
    );
    return encoder.forward(views);
  }

  /** Of all steps. */
  get learningRate(): number {
    return learningRates[this.#config.train.optimizer];
  }

  #student(): Student {
    const { student, seed } = this.#config;
    return createStudent(student.name, {
      device: this.#device,
      embeddingSize: this.#teacher.embeddingSize,
      seed,
      widthMultiplier: student.widthMultiplier,
      resolution: this.#resolution,
    });
  }

  async dispose(): Promise<void> {
    this.#device.addon.release(this.#images.store);
    await this.#teacher.dispose();
  }
}
