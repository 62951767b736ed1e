/** Where a model's weights lie: one safetensors file, or several and an index. */
import { basename, dirname, join } from 'node:path';
import { checkTexts } from '../../arguments.js';
import { LgdError, throwIfAborted } from '../../errors.js';
import { isFile } from '../../files/folders.js';
import { readFile } from '../../files/open.js';
import { SafetensorsReader } from '../../files/safetensors-reader.js';
import { resolveModel, type ResolvedModel, type ResolveOptions } from '../../hub.js';
import { configFiles } from './model-config.js';
import { preprocessorFiles } from './preprocessor.js';

/** The files that may hold a tower's weights, in the order looked for. */
export const weightFiles = ['visual.safetensors', 'open_clip_model.safetensors', 'model.safetensors', 'model.safetensors.index.json'] as const;

/** What is fetched beside weights. */
export const sideFiles: readonly string[] = [...configFiles, ...preprocessorFiles];

/**
 * The files of a model that {@link resolveModel} found by one of {@link weightFiles}: the file itself, or the shards that an index names. The configuration that tells the
 * activation comes with them: other programs keep weights in the hub's cache without it, in which case it is fetched.
 * @throws LgdError BAD_MODEL, and those of resolveModel
 */
export async function weightsOf(source: string, model: ResolvedModel, options: ResolveOptions): Promise<{ folder: string; files: string[] }> {
  const name = basename(model.files[0]!);
  if (name === 'visual.safetensors') return { folder: model.folder, files: model.files.slice(0, 1) };
  const ofOpenClip = name === 'open_clip_model.safetensors';
  const config = ofOpenClip ? 'open_clip_config.json' : 'config.json';
  const { folder, files: [weights] } = await resolveModel(source, { required: [name, config], optional: sideFiles }, options).catch(async (error: unknown) => {
    const hasOther = await isFile(join(model.folder, 'config.json'));
    throwIfAborted(options.signal, `loading ${source}`);
    if (ofOpenClip && !hasOther) throw error; // open_clip's own default of the activation is not OpenAI's
    return model;
  });
  if (!name.endsWith('.index.json')) return { folder, files: [weights!] };
  return { folder, files: (await resolveModel(source, { required: await readIndex(weights!), optional: sideFiles }, options)).files };
}

/** Opens the weights; an index stands for the shards beside it. @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_MODEL */
export async function openWeights(files: readonly string[]): Promise<SafetensorsReader> {
  checkTexts(files, 'files', 'a safetensors file');
  const paths = await Promise.all(files.map(async (file) => (file.endsWith('.index.json') ? (await readIndex(file)).map((shard) => join(dirname(file), shard)) : [file])));
  return SafetensorsReader.open(paths.flat());
}

/** The shards that an index names, each once. */
async function readIndex(file: string): Promise<string[]> {
  const bad = (why: string, cause?: unknown) => new LgdError('BAD_MODEL', `${file} is not an index of safetensors files: ${why}.`, { mend: 'Fetch it again', cause });
  let map: unknown;
  try {
    map = (JSON.parse(await readFile(file, 'utf8')) as { weight_map?: unknown }).weight_map;
  } catch (cause) {
    throw bad((cause as Error).message, cause);
  }
  const shards = [...new Set(Object.values(map ?? {}))];
  if (shards.length === 0) throw bad('it has no weight_map');
  if (!shards.every((shard): shard is string => typeof shard === 'string' && basename(shard) === shard)) throw bad('it names files outside of its folder');
  return shards;
}
