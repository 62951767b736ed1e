// The demo's data set: emoji as five vendors draw them, from npm packages with permissive licences, drawn with sharp on
// white.
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { heldOutVendor, trainingVendors } from './vendors.mjs';

const require = createRequire(import.meta.url);

/** emojibase's groups whose emoji are components of others, or flags. */
const leftOutGroups = ['component', 'flags'];
const zeroWidthJoiner = '200D';

/**
 * Every emoji of the data set, in Unicode's order: base emoji without skin tones, flags, components and person
 * sequences, drawn by at least two training vendors and by the held-out one.
 * @returns {{ label: string, hexcode: string, group: string, subgroup: string, drawings: Record<string, Drawing> }[]}
 */
export function listEmoji() {
  const { groups, subgroups } = require('emojibase-data/meta/groups.json');
  const packages = Object.fromEntries(
    [...trainingVendors, heldOutVendor].map((vendor) => [vendor, loadVendor(vendor)]),
  );
  return require('emojibase-data/en/data.json').flatMap(({ label, hexcode, group, subgroup }) => {
    if (group === undefined || leftOutGroups.includes(groups[group])) return [];
    if (groups[group] === 'people-body' && hexcode.includes(zeroWidthJoiner)) return [];
    const drawings = {};
    for (const [vendor, { icons, chars }] of Object.entries(packages)) {
      const drawing = findDrawing(icons, nameOf(hexcode, chars) ?? nameOf(hexcode, packages.noto.chars));
      if (drawing !== undefined) drawings[vendor] = drawing;
    }
    const trained = trainingVendors.filter((vendor) => drawings[vendor] !== undefined).length;
    return trained >= 2 && drawings[heldOutVendor] !== undefined
      ? [{ label, hexcode, group: groups[group], subgroup: subgroups[subgroup], drawings }]
      : [];
  });
}

function loadVendor(vendor) {
  return { icons: require(`@iconify-json/${vendor}/icons.json`), chars: require(`@iconify-json/${vendor}/chars.json`) };
}

/** The icon's name of a code point sequence; packages differ in whether they write the variation selector. */
function nameOf(hexcode, chars) {
  const code = hexcode.toLowerCase();
  return (
    chars[code] ??
    chars[
      code
        .split('-')
        .filter((point) => point !== 'fe0f')
        .join('-')
    ]
  );
}

/** An icon by name, with what Iconify's aliases say about mirroring. */
function findDrawing({ icons, aliases = {}, width = 16, height = 16 }, name) {
  let mirrored = false;
  while (name !== undefined && icons[name] === undefined) {
    const alias = aliases[name];
    mirrored = mirrored !== (alias?.hFlip ?? false);
    name = alias?.parent;
  }
  return name === undefined ? undefined : { left: 0, top: 0, width, height, ...icons[name], mirrored };
}

/** The drawing as an SVG document of size x size pixels; what is not square is centred. */
function toSvg({ body, left, top, width, height, mirrored }, size) {
  const content = mirrored ? `<g transform="translate(${2 * left + width} 0) scale(-1 1)">${body}</g>` : body;
  return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="${left} ${top} ${width} ${height}" width="${size}" height="${size}">${content}</svg>`;
}

/**
 * Draws what is not there yet: `train/<vendor>/<code>.png` without labels, and a folder for each evaluation vendor with
 * a class folder a name.
 * @param {ReturnType<typeof listEmoji>} emoji
 * @param {{ folder: string, trainSize: number, evaluateSize: number, evaluate: string[], signal?: AbortSignal,
 *   onProgress?: (done: number, total: number) => void }} options
 * @returns {Promise<{ train: string, evaluate: Record<string, string>, images: number, drawn: number }>} the folders;
 *   how many training images there are; how many were drawn just now
 */
export async function drawEmoji(emoji, { folder, trainSize, evaluateSize, evaluate, signal, onProgress }) {
  const { default: sharp } = await import('sharp');
  const train = join(folder, 'train');
  const training = emoji.flatMap(({ hexcode, drawings }) =>
    trainingVendors
      .filter((vendor) => drawings[vendor] !== undefined)
      .map((vendor) => ({ path: join(train, vendor, `${hexcode}.png`), drawing: drawings[vendor], size: trainSize })),
  );
  const evaluation = evaluate.flatMap((vendor) =>
    emoji.map(({ label, hexcode, drawings }) => ({
      path: join(folder, vendor, label, `${hexcode}.png`),
      drawing: drawings[vendor],
      size: evaluateSize,
    })),
  );
  const there = new Set((await readdir(folder, { recursive: true }).catch(() => [])).map((path) => join(folder, path)));
  const jobs = [...training, ...evaluation].filter(({ path, drawing }) => drawing !== undefined && !there.has(path));
  for (const [index, { path, drawing, size }] of jobs.entries()) {
    signal?.throwIfAborted();
    await mkdir(dirname(path), { recursive: true });
    await sharp(Buffer.from(toSvg(drawing, size)))
      .flatten({ background: '#fff' })
      .removeAlpha()
      .toColourspace('srgb')
      .png()
      .toFile(`${path}.part`);
    await rename(`${path}.part`, path); // an interrupted run leaves no half image to be taken for a whole one
    if (index % 50 === 49 || index === jobs.length - 1) onProgress?.(index + 1, jobs.length);
  }
  await writeFile(join(folder, 'names.txt'), `${emoji.map(({ label }) => label).join('\n')}\n`);
  return {
    train,
    evaluate: Object.fromEntries(evaluate.map((vendor) => [vendor, join(folder, vendor)])),
    images: training.length,
    drawn: jobs.length,
  };
}
