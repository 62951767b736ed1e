/** The text banks a configuration asks for: for training, and for evaluation. */
import { TextualSemanticsBank } from '../banks/textual.js';
import { worksWithoutNames, type Config } from '../config.js';
import type { Device, DeviceName } from '../device.js';
import { LgdError } from '../errors.js';
import type { Teacher } from '../models/teachers/types.js';
import type { EncodeOptions, TextEncoder } from '../text/encoder.js';
import { loadTextEncoder } from '../text/load-encoder.js';
import { CategoryList } from '../text/names.js';
import { normaliseName } from '../text/spelling.js';
import { loadTemplates } from '../text/templates.js';

/** Loads or builds banks; the text tower is loaded once, and only if a bank has to be built. A native one runs on the device given. */
export class BankSource {
  #encoder: TextEncoder | undefined;

  /** @param kept the bank that a run to be continued was trained with */
  constructor(readonly config: Config, readonly teacher: Pick<Teacher, 'embeddingSize'>, readonly options: EncodeOptions & { device?: Device }, readonly kept?: TextualSemanticsBank) {}

  /**
   * The bank to train with; undefined for methods seed and feature without names. The one kept is taken for the same names and templates, or where none are given: a text
   * tower gives other last bits on another processor, and a run could not be continued there.
   * @throws LgdError BAD_CONFIG (neither bank nor names), BAD_BANK, BAD_NAMES, and those of the text tower
   */
  async training(): Promise<TextualSemanticsBank | undefined> {
    const { bank, names, method } = this.config;
    if (bank !== undefined) return this.#checked(await this.#load(bank), bank, 'bank');
    if (names !== undefined) {
      const list = await CategoryList.load(names);
      return this.kept !== undefined && (await this.#isOf(this.kept, list)) ? this.kept : this.#build(list);
    }
    if (this.kept !== undefined) return this.#checked(this.kept, 'the checkpoint', 'teacher');
    if (worksWithoutNames(method)) return undefined;
    throw new LgdError('BAD_CONFIG', `category names are needed for method ${method}.`, { option: 'names', mend: 'Give names or bank (--names, or --bank built before); methods seed and feature need none' });
  }

  /**
   * The bank to evaluate with: `evaluate.bank`, or else the training bank; its rows for `evaluate.names`, or, where a name is not in it, a bank of its own.
   * @throws as {@link training}
   */
  async evaluation(training: TextualSemanticsBank | undefined): Promise<TextualSemanticsBank> {
    const { names, bank: file } = this.config.evaluate;
    const bank = file === undefined ? training : this.#checked(await TextualSemanticsBank.load(file), file, 'evaluate.bank');
    if (names === undefined) {
      if (bank !== undefined) return bank;
      throw new LgdError('BAD_CONFIG', 'evaluation needs category names.', { option: 'evaluate.names', mend: 'Give names, evaluate.names or evaluate.bank' });
    }
    const list = await CategoryList.load(names);
    return (bank && subset(bank, list.names)) ?? (await this.#build(list));
  }

  async dispose(): Promise<void> {
    await this.#encoder?.dispose();
    this.#encoder = undefined;
  }

  /** A bank's file; the one kept where that is gone. */
  async #load(file: string): Promise<TextualSemanticsBank> {
    return TextualSemanticsBank.load(file).catch((error: unknown) => {
      if (this.kept !== undefined && error instanceof LgdError && error.code === 'FILE_NOT_FOUND') return this.kept;
      throw error;
    });
  }

  /** Is a bank of these names by the configuration's templates? */
  async #isOf(bank: TextualSemanticsBank, { names }: CategoryList): Promise<boolean> {
    const alike = (a: readonly string[], b: readonly string[]) => a.length === b.length && a.every((text, i) => text === b[i]);
    return bank.embeddingSize === this.teacher.embeddingSize && alike(bank.names, names) && alike(bank.templates, await loadTemplates(this.config.templates));
  }

  async #build(list: CategoryList): Promise<TextualSemanticsBank> {
    const { config: { templates, allowDuplicates }, options: { signal, onProgress } } = this;
    this.#encoder ??= await this.#loadEncoder();
    return this.#checked(await TextualSemanticsBank.build(list, { encoder: this.#encoder, templates, allowDuplicates, signal, onProgress }), this.#encoder.id, 'textEncoder');
  }

  async #loadEncoder(): Promise<TextEncoder> {
    const { textEncoder, teacher, offline } = this.config;
    const isFile = teacher !== undefined && /\.(?:onnx|safetensors)$/u.test(teacher);
    const source = textEncoder ?? (isFile ? undefined : teacher);
    if (source === undefined) {
      throw new LgdError('BAD_CONFIG', 'the teacher is a file without a text tower.', { option: 'textEncoder', found: teacher, mend: "Give the text tower of the teacher's model, or a bank built with it" });
    }
    return loadTextEncoder(source, { device: this.options.device ?? (this.config.device as DeviceName), localFilesOnly: offline, signal: this.options.signal });
  }

  #checked(bank: TextualSemanticsBank, where: string, option: string): TextualSemanticsBank {
    if (bank.embeddingSize === this.teacher.embeddingSize) return bank;
    throw new LgdError('BAD_BANK', `the text embeddings of ${where} have ${bank.embeddingSize} values, the teacher's ${this.teacher.embeddingSize}.`, {
      option, found: bank.encoderId, mend: option === 'teacher' ? 'Resume with the teacher of that run' : "Take the text tower of the teacher's own model",
    });
  }
}

/** The rows of a bank for some of its names, or undefined where a name is not in it. Names that differ only in case, underscores and blanks are one. */
function subset(bank: TextualSemanticsBank, names: readonly string[]): TextualSemanticsBank | undefined {
  const places = new Map(bank.names.map((name, index) => [normaliseName(name), index]));
  const rows = names.map((name) => places.get(normaliseName(name)));
  if (rows.some((row) => row === undefined)) return undefined;
  const size = bank.embeddingSize;
  const data = new Float32Array(names.length * size);
  rows.forEach((row, i) => data.set(bank.data.subarray(row! * size, (row! + 1) * size), i * size));
  return TextualSemanticsBank.fromEmbeddings(names, data, { encoderId: bank.encoderId, templates: bank.templates });
}
