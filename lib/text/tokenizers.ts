import { join } from 'node:path';
import type { PreTrainedTokenizer } from '@xenova/transformers';
import { LgdError } from '../errors.js';
import { isTexts } from '../files/json.js';
import { readFile } from '../files/open.js';
import { importOnnxRuntime } from '../onnx/session.js';

/** What is taken from @xenova/transformers. */
interface Tokenizers {
  PreTrainedTokenizer: new (tokenizer: object, config: object) => PreTrainedTokenizer;
}

// The tokenizers alone: the package's main entry imports a sharp of its own, whose binary a script has to fetch from
// elsewhere. The version is pinned.
const tokenizersFile = '@xenova/transformers/src/tokenizers.js';

/**
 * They import onnxruntime-node, in a way that leaves a rejected promise to nobody, which ends the process, where that
 * fails: so it is tried first.
 */
async function loadTokenizers(): Promise<unknown> {
  await importOnnxRuntime();
  return import(tokenizersFile);
}

/**
 * Loads the tokenizers of @xenova/transformers on first use, so that importing this package loads no inference engine.
 * @throws LgdError DEPENDENCY_MISSING with the commands to type
 */
export async function importTokenizers(load: () => Promise<unknown> = loadTokenizers): Promise<Tokenizers> {
  try {
    return (await load()) as Tokenizers;
  } catch (cause) {
    if (cause instanceof LgdError) throw cause;
    throw new LgdError(
      'DEPENDENCY_MISSING',
      `@xenova/transformers could not be loaded, so no text can be encoded: ${(cause as Error).message.split('\n')[0]}.`,
      {
        mend: 'Type: npm install --ignore-scripts (where a script of its sharp fails, npm leaves it out; that sharp is not needed). Or give a bank built from embeddings: lgdistill bank build --embeddings',
        cause,
      },
    );
  }
}

/** How many tokens a model's file limits texts to; undefined where it says no such number. */
export function asMaxTokens(limit: unknown): number | undefined {
  return typeof limit === 'number' && limit >= 3 && limit < 1e6 ? limit : undefined;
}

/** What {@link TextTokenizer.load} reads. */
export const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json'] as const;

/**
 * A byte-pair tokenizer as the library reads it: the first ones that were written do not say what they are (it would
 * take them for one of whole words), and since version 0.20 of Hugging Face's tokenizers a merge is a pair instead of a
 * text with a blank.
 */
function likeOthers(content: object): object {
  const { model } = content as { model?: { merges?: unknown } };
  if (!Array.isArray(model?.merges)) return content;
  const merges = (model.merges as unknown[]).map((merge, place) => {
    if (typeof merge === 'string') return merge;
    if (isTexts(merge)) return merge.join(' ');
    throw new Error(`its merge ${place} is no pair of texts`);
  });
  return { ...content, model: { type: 'BPE', ...model, merges } };
}

/**
 * Texts as SigLIP was trained on them, which its tokenizer.json may leave to the program: in lower case, and for its
 * first version, whose tokenizer is a unigram model, without ASCII punctuation and with single blanks (Zhai et al.
 * 2023's code, and transformers' SiglipTokenizer). SigLIP 2's is byte-pair.
 */
function asSiglipRead(text: string, isUnigram: boolean): string {
  const lower = text.toLowerCase();
  return isUnigram
    ? lower
        .replaceAll(/[!-/:-@[-`{-~]/gu, '')
        .replaceAll(/\s+/gu, ' ')
        .trim()
    : lower;
}

/** The tokenizer of CLIP's or SigLIP's text tower, from its model's folder. */
export class TextTokenizer {
  private constructor(
    private readonly tokenizer: PreTrainedTokenizer,
    /** The token that ends every text. */
    readonly endId: number,
    /** How SigLIP's differs, where it is one. */
    readonly siglip: { padId: number; isUnigram: boolean } | undefined,
  ) {}

  /**
   * @param options siglip: the model is one of SigLIP's
   * @throws LgdError DEPENDENCY_MISSING, BAD_MODEL
   */
  static async load(folder: string, { siglip = false } = {}): Promise<TextTokenizer> {
    const { PreTrainedTokenizer: Tokenizer } = await importTokenizers();
    try {
      const [content, config] = await Promise.all(
        tokenizerFiles.map(async (file) => JSON.parse(await readFile(join(folder, file), 'utf8')) as object),
      );
      const tokenizer = new Tokenizer(likeOthers(content!), config!); // what CLIP's own class adds nothing to
      const end = tokenizer.encode('').at(-1);
      if (end === undefined || tokenizer.encode('a').at(-1) !== end)
        throw new Error('it puts no token at the end of texts, where the model reads the embedding');
      const isUnigram = (content as { model?: { type?: unknown } }).model?.type === 'Unigram';
      const { pad_token_id: padId = end } = tokenizer as { pad_token_id?: number };
      return new TextTokenizer(tokenizer, end, siglip ? { padId, isUnigram } : undefined);
    } catch (cause) {
      throw new LgdError('BAD_MODEL', `the tokenizer in ${folder} cannot be used: ${(cause as Error).message}.`, {
        mend: `Check that ${tokenizerFiles.join(' and ')} are those of the model`,
        cause,
      });
    }
  }

  /** What its configuration limits texts to, if anything. */
  get maxTokens(): number | undefined {
    return asMaxTokens(this.tokenizer.model_max_length);
  }

  /**
   * Token ids of one text; a text too long keeps its end token, where CLIP reads the embedding. For SigLIP, which reads
   * it at the last place, always `maxTokens` of them.
   */
  encode(text: string, maxTokens: number): number[] {
    const ids = this.#ids(text);
    if (ids.length > maxTokens) return [...ids.slice(0, maxTokens - 1), ids.at(-1)!];
    return this.siglip === undefined ? ids : [...ids, ...Array<number>(maxTokens - ids.length).fill(this.siglip.padId)];
  }

  /** How many tokens a text has, start and end tokens included, before any cut. */
  count(text: string): number {
    return this.#ids(text).length;
  }

  /**
   * A vocabulary that lacks a token has no number for it, which would stand for some other word.
   * @throws LgdError BAD_MODEL
   */
  #ids(text: string): number[] {
    const ids = this.tokenizer.encode(this.siglip === undefined ? text : asSiglipRead(text, this.siglip.isUnigram));
    const wrong = ids.findIndex((id) => !(Number.isSafeInteger(id) && id >= 0));
    if (wrong === -1) return ids;
    throw new LgdError(
      'BAD_MODEL',
      `the tokenizer has no number for token ${wrong + 1} of ${JSON.stringify(text.slice(0, 80))}.`,
      { found: ids[wrong], mend: `Check that ${tokenizerFiles.join(' and ')} are those of the model, and whole` },
    );
  }
}
