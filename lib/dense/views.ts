/** The views of a training batch, drawn alike whatever is learnt from them. */
import { PhiloxStream } from '../data/philox.js';
import type { ChannelTriple } from '../models/teachers/types.js';
import { drawView, placeView, type View } from './pixels.js';
import type { DenseConfig } from './trainer.js';

/** How a batch's views are drawn. */
export interface Drawing {
  dense: DenseConfig;
  seed: number;
  /** Number of the batch's first draw: with the seed it keys the random numbers. */
  first: number;
  mean: ChannelTriple;
  std: ChannelTriple;
}

/** An image, undecoded. */
interface ImageToDraw {
  image: Buffer;
  path: string;
  width: number;
  height: number;
}

/**
 * Draws the views of a batch.
 * @param key keeps these draws apart from other uses of the same seed
 * @param keep called with each image and the view that was drawn of it, for what is to be learnt there
 * @returns [B,3,R,R], normalised
 */
export async function drawViews<Image extends ImageToDraw>(
  indices: Int32Array,
  { dense, seed, first, mean, std }: Drawing,
  key: bigint,
  read: (index: number) => Promise<Image>,
  keep: (image: Image, view: View, place: number) => void,
): Promise<Float32Array> {
  const { resolution } = dense;
  const values = 3 * resolution * resolution;
  const pixels = new Float32Array(indices.length * values);
  await Promise.all(
    Array.from(indices, async (index, place) => {
      const image = await read(index);
      const stream = new PhiloxStream(BigInt(seed) ^ key, BigInt(first + place));
      const view = drawView(image, resolution, dense, () => stream.next());
      await placeView(
        image.image,
        view,
        pixels.subarray(place * values, (place + 1) * values),
        { resolution, mean, std },
        image.path,
      );
      keep(image, view, place);
    }),
  );
  return pixels;
}
