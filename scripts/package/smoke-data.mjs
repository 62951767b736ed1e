// Images and embeddings for the smoke test of the packages. Embeddings are written by the installed package itself, run
// in the app's folder.
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const names = ['circle', 'square', 'triangle'];

const shapes = {
  circle: (size) => `<circle cx="48" cy="48" r="${size}"/>`,
  square: (size) => `<rect x="${48 - size}" y="${48 - size}" width="${2 * size}" height="${2 * size}"/>`,
  triangle: (size) => `<path d="M48 ${48 - size} L${48 + size} ${48 + size} L${48 - size} ${48 + size} Z"/>`,
};
const colours = ['crimson', 'teal', 'orange', 'navy'];

/** One folder a name, four drawings in each. */
export function drawImages(folder) {
  for (const [name, draw] of Object.entries(shapes)) {
    mkdirSync(join(folder, name), { recursive: true });
    colours.forEach((colour, i) => {
      writeFileSync(
        join(folder, name, `${i}.svg`),
        `<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"><rect width="96" height="96" fill="white"/><g fill="${colour}">${draw(20 + 6 * i)}</g></svg>`,
      );
    });
  }
}

/**
 * Writes two files of embeddings into the app's folder: the rows of a bank, longer (`to`), and one row for each image
 * (teacher.safetensors), as if a teacher had computed it: its category's text with a little of the next one's.
 */
export function writeEmbeddings(app, bank, to) {
  const script = `
    import { PrecomputedTeacher, TextualSemanticsBank, writeSafetensors } from 'lgdistill';
    const { data, names, embeddingSize: size } = await TextualSemanticsBank.load(${JSON.stringify(bank)});
    await writeSafetensors(${JSON.stringify(to)}, [['embeddings', { shape: [names.length, size], data: data.map((value, i) => value * (2 + Math.floor(i / size))) }]], {});
    const ids = names.flatMap((name) => [0, 1, 2, 3].map((i) => name + '/' + i + '.svg'));
    const rows = Float32Array.from({ length: ids.length * size }, (_, i) => {
      const category = Math.floor(i / size / 4);
      return data[category * size + i % size] + 0.1 * data[((category + 1) % names.length) * size + i % size];
    });
    await PrecomputedTeacher.save('teacher.safetensors', ids, rows, { id: 'made up', resolution: 64 });`;
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: app,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`writing embeddings failed: ${stderr}`);
}
