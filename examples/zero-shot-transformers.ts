// A student and its text bank in @xenova/transformers, in Node or a browser: npx lgdistill export runs/first --to
// transformers; npx tsx examples/zero-shot-transformers.ts student-transformers photo.jpg
import { readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { env, pipeline } from '@xenova/transformers';

const [folder = 'student-transformers', ...photos] = process.argv.slice(2);
// in a browser: the address of the folder that the model's folder is in, and fetch for readFile
env.localModelPath = dirname(resolve(folder));
env.allowRemoteModels = false;

const embed = await pipeline('image-feature-extraction', basename(resolve(folder)), { quantized: false });
const { names, embeddings } = JSON.parse(await readFile(`${folder}/text_bank.json`, 'utf8')) as {
  names: string[];
  embeddings: number[][];
};
for (const photo of photos) {
  const image = [...((await embed(photo)).data as Float32Array)];
  const cosines = embeddings.map(
    (row) => row.reduce((sum, value, d) => sum + value * image[d]!, 0) / Math.hypot(...image),
  );
  console.log(`${photo}: ${names[cosines.indexOf(Math.max(...cosines))]} ${Math.max(...cosines).toFixed(4)}`);
}
