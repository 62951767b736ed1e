// The demo's images and text bank, from drawings made here or from a packed file.
import { mkdir } from 'node:fs/promises';
import { drawEmoji, listEmoji } from './emoji.mjs';
import { readPacked, writePacked } from './packed.mjs';
import { resolution, templates } from './presets.mjs';
import { heldOutVendor } from './vendors.mjs';

/**
 * Draws the emoji of a preset and opens them as the library's users open theirs: image folders, decoded into a cache,
 * and a text bank of the names.
 * @returns {Promise<{ bank: object, train: object, evaluation: Record<string, object>, folders: { train: string,
 *   evaluate: string }, dispose: () => void }>}
 */
export async function openDrawn(lgd, device, { preset, folder, teacher, signal, say }) {
  const drawn = await draw(preset, { folder, signal, say });
  const bank = await buildBank(lgd, drawn.names, { teacher, signal });
  const { open, dispose } = cacheMaker(lgd, device, folder, signal);
  const train = await open(await lgd.openImageFolder(drawn.train, { signal }), preset.drawingSize);
  const evaluation = {};
  for (const [vendor, path] of Object.entries(drawn.evaluate))
    evaluation[vendor] = await open(await lgd.openImageFolder(path, { labels: 'folders', signal }), resolution);
  return { bank, train, evaluation, folders: { train: drawn.train, evaluate: drawn.evaluate[heldOutVendor] }, dispose };
}

/** The same from a packed file, without a decoder, a text encoder or the drawings' packages. */
export async function openPacked(lgd, device, { preset, file }) {
  const { bank, sources } = await readPacked(lgd, device, { file, groups: preset.groups });
  const { train, ...all } = sources;
  const vendors = [heldOutVendor, ...preset.alsoEvaluate];
  return {
    bank,
    train,
    evaluation: Object.fromEntries(vendors.map((vendor) => [vendor, all[vendor]])),
    dispose: () => Object.values(sources).forEach((source) => source.dispose()),
  };
}

/** Draws a preset and writes it as one packed file; stored: its drawings uncompressed. */
export async function prepare(lgd, { preset, folder, file, stored, teacher, signal, say }) {
  const drawn = await draw(preset, { folder, signal, say });
  const bank = await buildBank(lgd, drawn.names, { teacher, signal });
  const sources = { train: await lgd.openImageFolder(drawn.train) };
  for (const [vendor, path] of Object.entries(drawn.evaluate)) sources[vendor] = await lgd.openImageFolder(path);
  await writePacked(lgd, { file, compressed: !stored, emoji: drawn.emoji, bank, sources });
}

async function draw({ groups, alsoEvaluate, drawingSize }, { folder, signal, say }) {
  const emoji = listEmoji().filter(({ group }) => groups === undefined || groups.includes(group));
  await mkdir(folder, { recursive: true });
  const result = await drawEmoji(emoji, {
    folder,
    trainSize: drawingSize,
    evaluateSize: resolution,
    evaluate: [heldOutVendor, ...alsoEvaluate],
    signal,
    onProgress: (done, total) => done % 1000 === 0 && say(`  ${done} of ${total} drawn`),
  });
  say(
    `${result.images} unlabelled training drawings of ${emoji.length} emoji (${result.drawn} files drawn just now) in ${folder}`,
  );
  return { ...result, emoji, names: emoji.map(({ label }) => label) };
}

async function buildBank(lgd, names, { teacher, signal }) {
  const encoder = await lgd.ClipTextEncoder.load(teacher, { localFilesOnly: true });
  try {
    return await lgd.TextualSemanticsBank.build(names, { encoder, templates, signal });
  } finally {
    await encoder.dispose();
  }
}

function cacheMaker(lgd, device, folder, signal) {
  const caches = [];
  const open = async (source, size) => {
    const cache = await lgd.ImageCache.build(source, {
      device,
      resolution,
      margin: size / resolution,
      memoryLimitBytes: 2 ** 30,
      spillFolder: folder,
      maxBrokenShare: 0,
      signal,
    });
    caches.push(cache);
    return cache;
  };
  return { open, dispose: () => caches.forEach((cache) => cache.dispose()) };
}
