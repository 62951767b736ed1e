import { checkRows } from '../arguments.js';
import { LgdError, throwIfAborted, thrownBy } from '../errors.js';
import { orAborted } from '../turn.js';
import type { EncodeOptions, TextEncoder } from './encoder.js';
import { fillTemplate } from './templates.js';

const promptsAtOnce = 2048; // bounds memory to a few megabytes of embeddings whatever the length of the list

/**
 * One unit embedding a name (Radford et al. 2021, section 3.1.4): for each template t the prompt's embedding is
 * normalised, the mean over the templates is taken and normalised again: e_k = n(mean_t n(f(t(name_k)))), n(v) = v /
 * |v|. Norms and means in float64.
 * @returns [K,D], unit rows
 * @throws LgdError ABORTED, ZERO_EMBEDDING, NON_FINITE; BAD_SHAPE for what a caller's own encoder gives instead of
 *   rows, BAD_MODEL where that throws what is no error
 */
export async function embedNames(
  names: readonly string[],
  encoder: TextEncoder,
  templates: readonly string[],
  { signal, onProgress }: EncodeOptions = {},
): Promise<Float32Array> {
  const size = encoder.embeddingSize;
  if (!(Number.isSafeInteger(size) && size > 0))
    throw new LgdError('BAD_SHAPE', 'not an embedding size.', {
      option: 'encoder.embeddingSize',
      found: size,
      allowed: 'a whole number from 1',
    });
  const result = new Float32Array(names.length * size);
  const namesAtOnce = Math.max(1, Math.floor(promptsAtOnce / templates.length));
  for (let from = 0; from < names.length; from += namesAtOnce) {
    const block = names.slice(from, from + namesAtOnce);
    const prompts = block.flatMap((name) => templates.map((template) => fillTemplate(template, name)));
    const report = (done: number) => {
      if (signal?.aborted !== true) onProgress?.(from + Math.floor(done / templates.length), names.length);
    };
    throwIfAborted(signal, 'text encoding');
    const given = await ask(encoder, prompts, { signal, onProgress: report });
    const embeddings = checkRows(given, nameOf(encoder), { option: 'encoder', rows: prompts.length, size });
    const sum = new Float64Array(size);
    for (let i = 0; i < block.length; i++) {
      sum.fill(0);
      for (let t = 0; t < templates.length; t++) {
        const prompt = i * templates.length + t;
        addUnit(sum, embeddings.subarray(prompt * size, (prompt + 1) * size), prompts[prompt]!);
      }
      const unit = new Float64Array(size);
      addUnit(unit, sum, block[i]!);
      result.set(unit, (from + i) * size);
    }
  }
  return result;
}

const nameOf = ({ id }: TextEncoder): string => `the text encoder ${id}`;

/** What an encoder gives, which may be a caller's own: it may throw whatever it likes, and never answer. */
async function ask(encoder: TextEncoder, texts: readonly string[], options: EncodeOptions): Promise<unknown> {
  try {
    return await orAborted(Promise.resolve(encoder.encode(texts, options)), 'text encoding', options.signal);
  } catch (cause) {
    throw thrownBy(cause, 'BAD_MODEL', { giver: nameOf(encoder), call: 'encode', option: 'encoder' });
  }
}

/** sum += row / |row|. */
function addUnit(sum: Float64Array, row: Float32Array | Float64Array, text: string): void {
  let squares = 0;
  for (const value of row) squares += value * value;
  const norm = Math.sqrt(squares);
  if (!Number.isFinite(norm))
    throw new LgdError('NON_FINITE', `the embedding of ${JSON.stringify(text)} is not finite.`, {
      mend: 'Check the text encoder',
    });
  if (norm === 0)
    throw new LgdError('ZERO_EMBEDDING', `the embedding of ${JSON.stringify(text)} is zero.`, {
      mend: 'Check the text encoder and the templates',
    });
  for (let k = 0; k < row.length; k++) sum[k]! += row[k]! / norm;
}
