/**
 * The gallery: for each category the training images that its visual anchor lies nearest to, as the run's teacher sees
 * them.
 */
import { ImageCache } from '../data/cache.js';
import { openImages } from '../data/open-images.js';
import { sampleSource, type ImageSource } from '../data/sources.js';
import type { Device } from '../device.js';
import { LgdError } from '../errors.js';
import { embedImages, teacherEmbedder } from '../evaluate/embed.js';
import { configuredTeacher } from '../runs/configured-teacher.js';
import { reporting, type PhaseProgress } from '../runs/phase.js';
import { unitRows, type RunBanks } from './banks.js';
import { thumbnail } from './thumbnails.js';

export interface GalleryOptions {
  device: Device;
  /** Folder of training images. */
  images: string;
  /** The run's teacher. */
  teacher: string;
  /** Its `teacherResolution`. */
  teacherResolution: number | undefined;
  localFilesOnly: boolean;
  /** Images looked at, at most, spread evenly over the folder. */
  mostImages: number;
  /** Bytes of thumbnails, at most. */
  mostBytes: number;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

export interface GalleryCategory {
  name: string;
  /** Images looked at that the text bank assigns to it. */
  hits: number;
  /** Nearest first: place in {@link Gallery.thumbnails} and cosine to the visual anchor. */
  nearest: { image: number; cosine: number }[];
}

export interface Gallery {
  /** Of the checkpoint. */
  step: number;
  /** The most hit first; the least hit last. */
  categories: GalleryCategory[];
  /** Seen categories of the bank; more than are shown where the bank is large or the thumbnails would be too many. */
  seen: number;
  size: number;
  /** Names of categories that no image was assigned to, some of them. */
  unseen: string[];
  /** Data URIs, and the images' ids. */
  thumbnails: string[];
  ids: string[];
  /** Bytes of the data URIs. */
  bytes: number;
  /** Images looked at, and images in the folder. */
  images: number;
  ofImages: number;
}

const nearestShown = 6;
const mostCategories = 200;
const mostUnseen = 50;
const batch = 64;
const memoryLimit = 2 ** 30; // bytes of decoded images; more goes to a file

/**
 * Embeds training images with the teacher, centre crops, and finds those nearest to each seen visual anchor.
 * @throws LgdError of the folder, the teacher and the device; BAD_SHAPE (another teacher), ABORTED
 */
export async function anchorGallery(banks: RunBanks, options: GalleryOptions): Promise<Gallery> {
  const { device, images: folder, mostImages, signal } = options;
  const all = await openImages(folder, { signal });
  const source = sampleSource(all, mostImages);
  const { embeddings, kept } = await embedSource(source, banks.embeddingSize, options);
  const { addon, handle } = device;
  const count = kept.length;
  const assigned = await addon.topSimilar(handle, embeddings, banks.textual, banks.embeddingSize, 1);
  const hits = new Int32Array(banks.size);
  for (const k of assigned.indices) hits[k]!++;
  const k = Math.min(nearestShown, count);
  const nearest = await addon.topSimilar(handle, banks.visual, embeddings, banks.embeddingSize, k);

  const seen = Array.from(banks.seen.keys())
    .filter((row) => banks.seen[row] === 1)
    .sort((a, b) => hits[b]! - hits[a]! || a - b);
  const result: Gallery = {
    step: banks.step,
    categories: [],
    seen: seen.length,
    size: banks.size,
    thumbnails: [],
    ids: [],
    bytes: 0,
    images: count,
    ofImages: all.ids.length,
    unseen: banks.names.filter((_, row) => banks.seen[row] === 0).slice(0, mostUnseen),
  };
  const places = new Map<number, number>(); // image -> its thumbnail
  const shown = new Set<number>();
  for (const row of fromBothEnds(seen).slice(0, mostCategories)) {
    if (result.bytes >= options.mostBytes) break;
    for (let i = row * k; i < (row + 1) * k; i++)
      await addThumbnail(result, places, source, kept[nearest.indices[i]!]!);
    shown.add(row);
  }
  result.categories = seen
    .filter((row) => shown.has(row))
    .map((row) => ({
      name: banks.names[row]!,
      hits: hits[row]!,
      nearest: Array.from({ length: k }, (_, i) => ({
        image: places.get(kept[nearest.indices[row * k + i]!]!) ?? -1,
        cosine: round(nearest.scores[row * k + i]!),
      })).filter(({ image }) => image >= 0),
    }));
  return result;
}

/** Unit embeddings of the images that could be decoded, and which of the source they are. */
async function embedSource(
  source: ImageSource,
  size: number,
  { device, teacher: id, teacherResolution, localFilesOnly, signal, onProgress }: GalleryOptions,
): Promise<{ embeddings: Float32Array; kept: Int32Array }> {
  await using teacher = await configuredTeacher(id, { teacherResolution, offline: localFilesOnly }, { device, signal });
  if (teacher.embeddingSize !== size)
    throw new LgdError(
      'BAD_SHAPE',
      `the teacher's embeddings have ${teacher.embeddingSize} values, the bank's ${size}.`,
      { option: 'teacher', found: id, mend: "Give the run's own teacher" },
    );
  if (teacher.kind === 'precomputed') {
    const known = Int32Array.from(source.ids.keys()).filter((i) => teacher.has(source.ids[i]!));
    if (known.length === 0)
      throw new LgdError('BAD_DATASET', `the teacher ${id} has no embedding of any of these images.`, {
        option: 'data.train',
        mend: 'Give the folder that the run trained on',
      });
    return { embeddings: unitRows(teacher.lookup(Array.from(known, (i) => source.ids[i]!)), size), kept: known };
  }
  using images = await ImageCache.build(source, {
    device,
    resolution: teacher.resolution,
    margin: 1,
    memoryLimitBytes: memoryLimit,
    maxBrokenShare: 1,
    signal,
    onProgress: ({ done, total }) => reporting(onProgress, 'training images')(done, total),
  });
  const embeddings = new Float32Array(images.length * size);
  using embedder = teacherEmbedder(device, teacher, { batch: Math.min(batch, images.length), signal });
  await embedImages(
    embedder,
    { device, images, mean: teacher.mean, std: teacher.std, what: 'the gallery' },
    (rows, _, from) => embeddings.set(rows, from * size),
    { signal, onProgress: reporting(onProgress, 'teacher') },
  );
  return { embeddings: unitRows(embeddings, size), kept: images.sourceIndex };
}

async function addThumbnail(
  gallery: Gallery,
  places: Map<number, number>,
  source: ImageSource,
  index: number,
): Promise<void> {
  if (places.has(index)) return;
  const uri = await thumbnail(source, index);
  if (uri === undefined) return;
  places.set(index, gallery.thumbnails.length);
  gallery.thumbnails.push(uri);
  gallery.ids.push(source.ids[index]!);
  gallery.bytes += uri.length;
}

/** First, last, second, last but one ...: where not all can be shown, both ends are. */
function fromBothEnds<Item>(items: readonly Item[]): Item[] {
  return items.map((_, i) => items[i % 2 === 0 ? i / 2 : items.length - (i + 1) / 2]!);
}

function round(value: number): number {
  return Number(value.toFixed(3));
}
