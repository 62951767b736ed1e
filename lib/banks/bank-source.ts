/** The text banks a configuration asks for: for training, and for evaluation. */
import { worksWithoutNames, type Config } from '../config/config.js';
import type { Device, DeviceName } from '../device.js';
import { hasCode, LgdError } from '../errors.js';
import { withoutTexts } from '../models/teachers/tower-sizes.js';
import type { Teacher } from '../models/teachers/types.js';
import type { EncodeOptions, TextEncoder } from '../text/encoder.js';
import { loadTextEncoder } from '../text/load-encoder.js';
import { CategoryList } from '../text/names.js';
import { normaliseName } from '../text/spelling.js';
import { loadTemplates } from '../text/templates.js';
import { TextualSemanticsBank } from './textual.js';

/**
 * Loads or builds banks; the text tower is loaded once, and only if a bank has to be built. A native one runs on the
 * device given.
 */
export class BankSource implements AsyncDisposable {
  #encoder: TextEncoder | undefined;
  /** What was taken from the bank kept because its file is gone, a line each. */
  readonly remarks = new Set<string>();

  /** @param kept the bank that a run to be continued was trained with */
  constructor(
    readonly config: Config,
    readonly teacher: Pick<Teacher, 'embeddingSize'> & { architecture?: string },
    readonly options: EncodeOptions & { device?: Device },
    readonly kept?: TextualSemanticsBank,
  ) {}

  /**
   * The bank to train with; undefined for methods seed and feature without names. The one kept is taken for the same
   * names and templates, or where none are given or their files are gone: a text tower gives other last bits on another
   * processor, and a run could not be continued there.
   * @throws LgdError BAD_CONFIG (neither bank nor names), BAD_BANK, BAD_NAMES, and those of the text tower
   */
  async training(): Promise<TextualSemanticsBank | undefined> {
    const { bank, names, method } = this.config;
    if (bank !== undefined) return this.#checked(await this.#load(bank), bank, 'bank');
    if (names !== undefined) {
      const list = await this.#names(names);
      return this.kept !== undefined && (await this.#isOf(this.kept, list)) ? this.kept : this.#build(list);
    }
    if (this.kept !== undefined) return this.#checked(this.kept, 'the checkpoint', 'teacher');
    if (worksWithoutNames(method)) return undefined;
    throw needsNames(method);
  }

  /** Are there names to choose among in an evaluation? @param training the bank to train with */
  hasEvaluationNames(training: TextualSemanticsBank | undefined): boolean {
    const { names, bank } = this.config.evaluate;
    return training !== undefined || names !== undefined || bank !== undefined;
  }

  /**
   * The bank to evaluate with: `evaluate.bank`, or else the training bank; its rows for `evaluate.names`, or, where a
   * name is not in it, a bank of its own.
   * @throws as {@link training}
   */
  async evaluation(training: TextualSemanticsBank | undefined): Promise<TextualSemanticsBank> {
    const { names, bank: file } = this.config.evaluate;
    const bank =
      file === undefined ? training : this.#checked(await TextualSemanticsBank.load(file), file, 'evaluate.bank');
    if (names === undefined) {
      if (bank !== undefined) return bank;
      throw new LgdError('BAD_CONFIG', 'evaluation needs category names.', {
        option: 'evaluate.names',
        mend: 'Give names, evaluate.names or evaluate.bank',
      });
    }
    const list = await this.#names(names);
    if (bank === undefined) return this.#build(list);
    const places = placesOf(list.names, bank);
    const missing = list.names.filter((_, i) => places[i] === undefined);
    if (missing.length > 0) return this.#build(list).catch(forNames(missing));
    return subset(bank, list.names, places as number[], this.config.allowDuplicates);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#encoder?.dispose();
    this.#encoder = undefined;
  }

  /** A bank's file; the one kept where that is gone. */
  async #load(file: string): Promise<TextualSemanticsBank> {
    return TextualSemanticsBank.load(file).catch(this.#ifGone(`bank ${file}`, (kept) => kept));
  }

  /** Names; where the training's are gone, those of the bank kept. */
  async #names(source: string | readonly string[]): Promise<CategoryList> {
    const list = CategoryList.load(source);
    return source === this.config.names
      ? list.catch(this.#ifGone(`names ${String(source)}`, ({ names }) => CategoryList.load(names)))
      : list;
  }

  /** The configuration's templates; where they are gone, those of the bank kept. */
  async #templates(): Promise<readonly string[]> {
    const { templates } = this.config;
    return loadTemplates(templates).catch(
      this.#ifGone(`templates ${String(templates)}`, (kept) =>
        kept.templates.length > 0 ? kept.templates : undefined,
      ),
    );
  }

  /** Takes the place of what fails to load because its file is gone, with a remark. */
  #ifGone<Value>(what: string, of: (kept: TextualSemanticsBank) => Value): (error: unknown) => NonNullable<Value> {
    return (error) => {
      const value = this.kept && hasCode(error, 'FILE_NOT_FOUND') ? of(this.kept) : undefined;
      if (value === undefined || value === null) throw error;
      this.remarks.add(`${what} is not there any more: the run goes on with what its checkpoint keeps of it`);
      return value;
    };
  }

  /** Is a bank of these names by the configuration's templates? */
  async #isOf(bank: TextualSemanticsBank, { names }: CategoryList): Promise<boolean> {
    const alike = (a: readonly string[], b: readonly string[]) =>
      a.length === b.length && a.every((text, i) => text === b[i]);
    return (
      bank.embeddingSize === this.teacher.embeddingSize &&
      alike(bank.names, names) &&
      alike(bank.templates, await this.#templates())
    );
  }

  async #build(list: CategoryList): Promise<TextualSemanticsBank> {
    const { allowDuplicates } = this.config;
    const { signal, onProgress } = this.options;
    const templates = await this.#templates();
    this.#encoder ??= await this.#loadEncoder();
    return this.#checked(
      await TextualSemanticsBank.build(list, {
        encoder: this.#encoder,
        templates,
        allowDuplicates,
        signal,
        onProgress,
      }),
      this.#encoder.id,
      'textEncoder',
    );
  }

  async #loadEncoder(): Promise<TextEncoder> {
    const { textEncoder, teacher, offline } = this.config;
    const isFile = teacher !== undefined && /\.(?:onnx|safetensors)$/u.test(teacher);
    const source = textEncoder ?? (isFile ? undefined : teacher);
    if (source === undefined && teacher === undefined) {
      throw new LgdError('BAD_CONFIG', 'is needed to embed the category names.', {
        option: 'textEncoder',
        mend: "Give the text tower of the teacher's own model, or a bank built with it",
      });
    }
    if (source === undefined) {
      throw new LgdError('BAD_CONFIG', 'the teacher is a file without a text tower.', {
        option: 'textEncoder',
        found: teacher,
        mend: "Give the text tower of the teacher's model, or a bank built with it",
      });
    }
    if (textEncoder === undefined && withoutTexts.includes(this.teacher.architecture ?? ''))
      throw new LgdError('BAD_CONFIG', 'the teacher was trained without texts, so names have no place in its space.', {
        option: this.config.names === undefined ? 'evaluate.names' : 'names',
        found: this.config.names ?? this.config.evaluate.names,
        mend: withoutNames,
      });
    const encoder = loadTextEncoder(source, {
      device: this.options.device ?? (this.config.device as DeviceName),
      localFilesOnly: offline,
      signal: this.options.signal,
    });
    return textEncoder === undefined ? encoder.catch(noTowerBeside(source)) : encoder;
  }

  #checked(bank: TextualSemanticsBank, where: string, option: string): TextualSemanticsBank {
    if (bank.embeddingSize === this.teacher.embeddingSize) return bank;
    throw new LgdError(
      'BAD_BANK',
      `the text embeddings of ${where} have ${bank.embeddingSize} values, the teacher's ${this.teacher.embeddingSize}.`,
      {
        option,
        found: bank.encoderId,
        mend:
          option === 'teacher'
            ? 'Resume with the teacher of that run'
            : "Take the text tower of the teacher's own model",
      },
    );
  }
}

/** Of a method that does not work without. */
export function needsNames(method: Config['method']): LgdError {
  return new LgdError('BAD_CONFIG', `category names are needed for method ${method}.`, {
    option: 'names',
    mend: 'Give names or bank (--names, or --bank built before); methods seed and feature need none',
  });
}

/** For a teacher's place where no text tower is: a student as teacher has none, and a model may be kept without it. */
export function noTowerBeside(teacher: string): (error: unknown) => never {
  return (error) => {
    if (!hasCode(error, 'BAD_MODEL')) throw error;
    throw new LgdError('BAD_MODEL', `the teacher has no text tower to embed the names with: ${error.message}`, {
      option: 'textEncoder',
      found: teacher,
      mend: `Give the text tower of the teacher's own model (of a student: of its teacher), or a bank built with it. Of a teacher trained without texts, such as DINOv2: ${withoutNames}`,
      cause: error,
    });
  };
}

const withoutNames =
  'Leave names out: methods seed and feature need none, and evaluate.train with --also knn measures without them; or give a bank of embeddings of this teacher (lgdistill bank build --embeddings)';

/** For names that no bank has, where no text tower is to be had for them either: which they are. */
function forNames(missing: readonly string[]): (error: unknown) => never {
  return (error) => {
    if (!hasCode(error, 'BAD_CONFIG')) throw error;
    const { code, option, found } = error;
    if (option !== 'textEncoder' && option !== 'evaluate.names') throw error;
    const some = missing.slice(0, 3).map((name) => JSON.stringify(name));
    const more = missing.length > some.length ? ` and ${missing.length - some.length} more` : '';
    throw new LgdError(code, `the bank lacks ${some.join(', ')}${more}, and there is no text tower for them.`, {
      option,
      found,
      mend: `${option === 'textEncoder' ? "Give the text tower of the teacher's own model" : 'Leave them out'}, or give a bank with these names`,
      cause: error,
    });
  };
}

/** Where names stand in a bank. Those that differ only in case, or in underscores for blanks, are one. */
function placesOf(names: readonly string[], bank: TextualSemanticsBank): (number | undefined)[] {
  const places = new Map(bank.names.map((name, index) => [normaliseName(name), index]));
  return names.map((name) => places.get(normaliseName(name)));
}

/** Some rows of a bank, under these names. */
function subset(
  bank: TextualSemanticsBank,
  names: readonly string[],
  rows: readonly number[],
  allowDuplicates: boolean,
): TextualSemanticsBank {
  const size = bank.embeddingSize;
  const data = new Float32Array(names.length * size);
  rows.forEach((row, i) => data.set(bank.data.subarray(row * size, (row + 1) * size), i * size));
  return TextualSemanticsBank.fromEmbeddings(names, data, {
    encoderId: bank.encoderId,
    templates: bank.templates,
    allowDuplicates,
  });
}
