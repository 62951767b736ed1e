// One safetensors file with the demo's drawings (deflated RGB) and text bank: all that a machine without npm packages
// needs to run the demo.
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { deflateRaw, inflateRaw } from 'node:zlib';

const [deflate, inflate] = [promisify(deflateRaw), promisify(inflateRaw)];
const format = 'lgdistill-demo';

/**
 * Writes drawn images and their text bank.
 * @param lgd the library
 * @param {{ file: string, compressed?: boolean, emoji: { label: string, hexcode: string, group: string }[], bank: object, sources:
 *   Record<string, { root: string, ids: readonly string[] }> }} content emoji: in the order of the bank's names;
 *   sources by name; an image's file is called after its emoji's code points
 */
export async function writePacked(lgd, { file, compressed = true, emoji, bank, sources }) {
  const { default: sharp } = await import('sharp');
  const labels = new Map(emoji.map(({ hexcode }, index) => [hexcode, index]));
  const tensors = [['textual_bank', { shape: [bank.size, bank.embeddingSize], data: bank.data }]];
  const stored = new Map(); // a drawing is stored once, though a vendor may serve for training and for evaluation
  const index = {};
  for (const [source, { root, ids }] of Object.entries(sources)) {
    index[source] = { ids, drawings: [], labels: ids.map((id) => labels.get(basename(id, '.png'))) };
    for (const id of ids) {
      const { data, info } = await sharp(await readFile(join(root, id)))
        .removeAlpha()
        .raw()
        .toBuffer({ resolveWithObject: true });
      if (info.width !== info.height || info.channels !== 3)
        throw new Error(`${join(root, id)} is not a square drawing in colour`);
      const bytes = await deflate(data, { level: compressed ? 9 : 0 });
      const key = bytes.toString('latin1');
      if (!stored.has(key)) {
        tensors.push([`drawing.${stored.size}`, { shape: [bytes.length], data: new Uint8Array(bytes) }]);
        stored.set(key, stored.size);
      }
      index[source].drawings.push(stored.get(key));
    }
  }
  await lgd.writeSafetensors(file, tensors, {
    format,
    emoji: JSON.stringify(emoji.map(({ label, group }) => ({ label, group }))),
    templates: JSON.stringify(bank.templates),
    encoder: bank.encoderId,
    sources: JSON.stringify(index),
  });
}

/**
 * Reads a packed file into native memory, without a decoder.
 * @param lgd the library
 * @param {{ file: string, groups?: string[] }} options groups: leaves out the emoji of other groups
 * @returns {Promise<{ bank: object, sources: Record<string, object> }>} each source is a data set with labels
 */
export async function readPacked(lgd, device, { file, groups }) {
  const { tensors, metadata } = await lgd.readSafetensors(file);
  if (metadata.format !== format) throw new Error(`${file} was not written by demo --prepare`);
  const all = JSON.parse(metadata.emoji);
  const chosen = [...all.keys()].filter((index) => groups === undefined || groups.includes(all[index].group));
  if (chosen.length === 0)
    throw new Error(`${file} has no emoji of ${groups.join(', ')}; write it again with --prepare`);
  const names = chosen.map((index) => all[index].label);
  const place = new Map(chosen.map((index, to) => [index, to]));
  const {
    data,
    shape: [, dimension],
  } = tensors.get('textual_bank');
  const embeddings = new Float32Array(names.length * dimension);
  for (const [from, to] of place)
    embeddings.set(data.subarray(from * dimension, (from + 1) * dimension), to * dimension);
  const bank = lgd.TextualSemanticsBank.fromEmbeddings(names, embeddings, {
    encoderId: metadata.encoder,
    templates: JSON.parse(metadata.templates),
  });
  const sources = {};
  for (const [source, { ids, drawings, labels }] of Object.entries(JSON.parse(metadata.sources))) {
    const kept = ids.map((_, index) => index).filter((index) => place.has(labels[index]));
    const store = device.addon.makePixelStore({ memoryLimitBytes: 2 ** 32, spillFolder: tmpdir() });
    for (const index of kept) {
      const rgb = new Uint8Array(await inflate(tensors.get(`drawing.${drawings[index]}`).data));
      const size = Math.sqrt(rgb.length / 3);
      device.addon.appendPixels(store, size, size, rgb);
    }
    sources[source] = {
      length: kept.length,
      ids: kept.map((index) => ids[index]),
      sourceIndex: Int32Array.from(kept.keys()),
      store,
      labels: Int32Array.from(kept, (index) => place.get(labels[index])),
      classNames: names,
      dispose: () => device.addon.release(store),
    };
  }
  return { bank, sources };
}
