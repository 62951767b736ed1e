import type { TextualSemanticsBank } from '../banks/textual.js';
import { concatenate } from '../concatenate.js';
import { embedImages, type Embedder, type EmbedOptions, type EmbedTask } from './embed.js';

/** Of n images: [n,topK], the best first. */
export interface NearestNames {
  /** Into the bank's names. */
  indices: Int32Array;
  /** Cosines. */
  scores: Float32Array;
}

const searchedAtOnce = 4096; // images: each search sends the bank to the device

/**
 * Zero-shot classification (Radford et al. 2021, section 3.1): finds the names whose text embeddings are nearest to
 * each image by cosine. Images that cannot be decoded are left out.
 * @param take is told of some batches at a time: the nearest names of these images, by their indices
 * @throws as {@link embedImages}
 */
export async function findNearestNames(
  embedder: Embedder,
  task: EmbedTask,
  bank: TextualSemanticsBank,
  topK: number,
  take: (nearest: NearestNames, images: Int32Array) => void,
  options: EmbedOptions,
): Promise<void> {
  const { addon, handle } = task.device;
  let [rows, shown, searched]: [Float32Array[], Int32Array[], number] = [[], [], 0];
  const search = async () => {
    const [queries, images] = [concatenate(Float32Array, rows), concatenate(Int32Array, shown)];
    [rows, shown, searched] = [[], [], searched + images.length];
    take(await addon.topSimilar(handle, queries, bank.data, bank.embeddingSize, topK), images);
  };
  await embedImages(
    embedder,
    task,
    async (embeddings, some, from) => {
      rows.push(embeddings);
      shown.push(some);
      if (from + some.length - searched >= searchedAtOnce) await search();
    },
    options,
  );
  if (rows.length > 0) await search();
}
