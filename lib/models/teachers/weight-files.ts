/** Where a model's weights lie: one safetensors file, or several and an index. */
import { basename, dirname, join, relative } from 'node:path';
import { checkTexts } from '../../arguments.js';
import { LgdError, throwIfAborted } from '../../errors.js';
import { isFile } from '../../files/folders.js';
import { isTexts, membersOf } from '../../files/json.js';
import { readFile } from '../../files/open.js';
import { SafetensorsReader } from '../../files/safetensors-reader.js';
import { resolveModel, type ResolvedModel, type ResolveOptions } from '../../hub/hub.js';
import { configFiles } from './model-config.js';
import { preprocessorFiles } from './preprocessor.js';

/** The files that may hold a tower's weights, in the order looked for. */
export const weightFiles = [
  'visual.safetensors',
  'open_clip_model.safetensors',
  'model.safetensors',
  'model.safetensors.index.json',
] as const;

/** What is fetched beside weights. */
export const sideFiles: readonly string[] = [...configFiles, ...preprocessorFiles];

/**
 * The files of a model that {@link resolveModel} found by one of {@link weightFiles}: the file itself, or the shards
 * that an index names. The configuration that tells the activation comes with them: other programs keep weights in the
 * hub's cache without it, in which case it is fetched. All come from one revision.
 * @param beside what else the folder must have, and `model` has
 * @throws LgdError BAD_MODEL, and those of resolveModel
 */
export async function weightFilesOf(
  source: string,
  model: ResolvedModel,
  options: ResolveOptions,
  beside: readonly string[] = [],
): Promise<{ folder: string; files: string[] }> {
  const name = basename(model.files[0]!);
  if (name === 'visual.safetensors') return { folder: model.folder, files: model.files.slice(0, 1) };
  const ofOpenClip = name === 'open_clip_model.safetensors';
  const config = ofOpenClip ? 'open_clip_config.json' : 'config.json';
  const found = await resolveModel(source, { required: [name, config, ...beside], optional: sideFiles }, options).catch(
    async (error: unknown) => {
      const hasOther = await isFile(join(model.folder, 'config.json'));
      throwIfAborted(options.signal, `loading ${source}`);
      if (ofOpenClip && !hasOther) throw error; // open_clip's own default of the activation is not OpenAI's
      return model;
    },
  );
  const weights = found.files[0]!;
  if (!name.endsWith('.index.json')) return { folder: found.folder, files: [weights] };
  const all = found.files.map((file) => relative(found.folder, file)); // of one folder: another has another revision
  const { folder, files } = await resolveModel(
    source,
    { required: [...all, ...(await readIndex(weights))], optional: sideFiles },
    options,
  );
  return { folder, files: files.slice(all.length) };
}

/** Opens the weights; an index stands for the shards beside it. @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL */
export async function openWeights(files: readonly string[]): Promise<SafetensorsReader> {
  checkTexts(files, 'files', 'a safetensors file');
  const paths = await Promise.all(
    files.map(async (file) =>
      file.endsWith('.index.json') ? (await readIndex(file)).map((shard) => join(dirname(file), shard)) : [file],
    ),
  );
  return SafetensorsReader.open(paths.flat());
}

/** The shards that an index names, each once. */
async function readIndex(file: string): Promise<string[]> {
  const bad = (why: string, cause?: unknown) =>
    new LgdError('BAD_MODEL', `${file} is not an index of safetensors files: ${why}.`, {
      mend: 'Fetch it again',
      cause,
    });
  let content: unknown;
  try {
    content = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    throw bad((cause as Error).message, cause);
  }
  const shards = [...new Set(Object.values(membersOf(membersOf(content)['weight_map'])))];
  if (shards.length === 0) throw bad('it has no weight_map');
  if (!isTexts(shards) || !shards.every((shard) => basename(shard) === shard && shard.endsWith('.safetensors')))
    throw bad('its weight_map names something else than safetensors files in its folder');
  return shards;
}
