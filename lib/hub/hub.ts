import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { optionTable } from '../arguments.js';
import { LgdError, unlessAbsent } from '../errors.js';
import { cacheFolder } from '../files/cache-folder.js';
import { firstWhere, isDangling, isFile, isFolder } from '../files/folders.js';
import { makeFolder } from '../files/make-folder.js';
import { writeFileAtomically } from '../files/write-file.js';
import { describeModel, downloadFile } from './download.js';

/** Options of everything that loads a model by folder or hub id. */
export interface ResolveOptions {
  /** Never download; HF_HUB_OFFLINE=1 does the same. */
  localFilesOnly?: boolean | undefined;
  /** Where downloads are kept; by default $HF_HUB_CACHE, or hub/ in $HF_HOME, or ~/.cache/huggingface/hub. */
  cacheDir?: string | undefined;
  signal?: AbortSignal | undefined;
  /** Called as a file arrives; total is undefined where the server does not tell it. */
  onProgress?: ((progress: { file: string; received: number; total: number | undefined }) => void) | undefined;
}

export const resolveOptions = optionTable<ResolveOptions>()('localFilesOnly? cacheDir? signal? onProgress?');

/** What a loader needs of a model's folder; where an entry lists several files, the first that is there serves. */
export interface WantedFiles {
  required: readonly (string | readonly string[])[];
  optional?: readonly string[];
}

const hubId = /^[\w.-]+\/[\w.-]+$/u;

/** A model on this machine. */
export interface ResolvedModel {
  /** The hub id, or the folder's own name: what banks and student files record. */
  id: string;
  folder: string;
  /** The path of the file that serves each required entry, in their order. */
  files: string[];
}

/**
 * Finds a model: `./dir`, an absolute path or any folder that exists is that folder; `org/name` is a Hugging Face id,
 * looked for in the hub's cache (the layouts of huggingface_hub and of transformers.js) and otherwise downloaded into
 * it. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are honoured.
 * @throws LgdError FILE_NOT_FOUND (no such folder or id, or no network), BAD_MODEL (a file, or files are missing),
 *   NOT_WRITABLE (the cache), ABORTED
 */
export async function resolveModel(
  idOrDir: string,
  wanted: WantedFiles,
  options: ResolveOptions = {},
): Promise<ResolvedModel> {
  if (await isFile(idOrDir)) {
    throw new LgdError('BAD_MODEL', `${idOrDir} is a file, and a model is a folder or a Hugging Face id.`, {
      mend: mendOfFile(idOrDir),
    });
  }
  if (isPath(idOrDir) || (await isFolder(idOrDir))) return resolveFolder(idOrDir, wanted);
  if (!hubId.test(idOrDir)) {
    throw new LgdError('FILE_NOT_FOUND', 'there is no model folder of this name.', {
      found: idOrDir,
      allowed: "a folder ('./dir' or an absolute path) or a Hugging Face id ('org/name')",
      mend: mendOfAddress(idOrDir) ?? 'Check the path',
    });
  }
  const root = join(cacheRoot(options.cacheDir), `models--${idOrDir.replace('/', '--')}`);
  let incomplete: string[] | undefined;
  for (const folder of [...(await snapshots(root)), join(cacheRoot(options.cacheDir), idOrDir)]) {
    const { files, missing } = await present(folder, wanted);
    if (missing.length === 0) return { id: idOrDir, folder, files };
    if (await isFolder(folder)) incomplete ??= missing;
  }
  if (options.localFilesOnly || isOffline()) {
    const where = cacheRoot(options.cacheDir);
    throw new LgdError(
      'FILE_NOT_FOUND',
      `the model ${idOrDir} ${incomplete ? `in ${where} lacks ${incomplete.join(', ')}` : `is not in ${where}`}, and downloads are off.`,
      {
        mend: `${options.localFilesOnly ? 'Allow downloads' : 'Unset HF_HUB_OFFLINE'}, or give a folder that holds ${list(wanted)}`,
      },
    );
  }
  const folder = await download(idOrDir, root, wanted, options);
  return { id: idOrDir, folder, files: (await present(folder, wanted)).files };
}

/**
 * Looks at a model that is on this machine, and at none that would have to be fetched first: undefined then.
 * @param look takes the options to resolve the model with
 * @throws as `look` does, of a model that cannot be fetched: a path, or any where downloads are off
 */
export async function lookLocally<Found>(
  idOrDir: string,
  { localFilesOnly = false, signal }: ResolveOptions,
  look: (options: ResolveOptions) => Promise<Found>,
): Promise<Found | undefined> {
  const isFetched = hubId.test(idOrDir) && !isPath(idOrDir) && !(await isFolder(idOrDir)) && !(await isFile(idOrDir));
  const found = look({ localFilesOnly: localFilesOnly || isFetched, signal });
  // what is kept of it may be a part, and the rest is fetched
  return isFetched && !localFilesOnly && !isOffline() ? found.catch(() => undefined) : found;
}

function isPath(idOrDir: string): boolean {
  return isAbsolute(idOrDir) || /^\.{1,2}(\/|$)/u.test(idOrDir);
}

async function resolveFolder(path: string, wanted: WantedFiles): Promise<ResolvedModel> {
  const folder = resolve(path);
  if (!(await isFolder(folder)))
    throw new LgdError('FILE_NOT_FOUND', `there is no folder ${folder}.`, {
      mend: "Check the path; a Hugging Face id is written 'org/name'",
    });
  const { files, missing } = await present(folder, wanted);
  if (missing.length > 0) {
    throw new LgdError('BAD_MODEL', `the model folder ${folder} lacks ${missing.join(', ')}.`, {
      mend:
        mendOf(missing, await readdir(folder).catch(unlessAbsent(folder, []))) ??
        'Export the model to ONNX in the Hugging Face folder layout, or fetch the missing files',
    });
  }
  return { id: basename(folder), folder, files };
}

function mendOf(missing: readonly string[], available: readonly string[]): string | undefined {
  return missing.some((file) => file.includes('.safetensors')) ? mendOfPickle(available) : undefined;
}

function mendOfFile(path: string): string {
  const isOfModel = /\.(?:json|onnx|safetensors)$/iu.test(path);
  return (
    mendOfPickle([path]) ??
    mendOfEmbeddings(path) ??
    (isOfModel
      ? `Give the folder that it is in: ${dirname(path)}`
      : "It is no file of a model: give a model's folder, or an id such as 'Xenova/clip-vit-base-patch32'")
  );
}

/**
 * Other tools' ways to name a model of the hub: open_clip's 'hf-hub:', timm's 'hf_hub:', an address, and with a
 * revision.
 */
function mendOfAddress(text: string): string | undefined {
  const [, prefix, id, rest = ''] =
    /^(hf[-_]hub:|hf:\/\/|(?:https?:\/\/)?(?:www\.)?(?:huggingface\.co|hf\.co)\/)?([\w.-]+\/[\w.-]+)([@/?#].*)?$/u.exec(
      text,
    ) ?? [];
  if (id === undefined || (prefix === undefined && rest.startsWith('/'))) return undefined;
  const isMain = /^(?:@main|\/|\/(?:tree|blob|resolve)\/main(?:\/.*)?|[?#].*)?$/u.test(rest);
  return isMain
    ? `Write '${id}'`
    : `Write '${id}' for its main revision; for another one download that, and give its folder`;
}

/** Who has embeddings tends to have them so. */
function mendOfEmbeddings(file: string): string | undefined {
  return /\.(?:npy|npz|csv|tsv|parquet|h5)$/iu.test(file)
    ? 'If it has the embeddings of a teacher, write them as safetensors, with the ids of the images (docs/formats.md, Embeddings)'
    : undefined;
}

/** Weights may be there as PyTorch's pickle alone, which runs what it holds when it is read. */
function mendOfPickle(files: readonly string[]): string | undefined {
  const pickle = files.find((file) => /\.(?:bin|pt|pth|ckpt)$/u.test(file));
  return (
    pickle &&
    `${pickle} is a pickle, which is not read: save it as safetensors (in Python: save_pretrained of transformers, or safetensors.torch.save_file), or take a model that has them, such as 'timm/vit_base_patch32_clip_224.openai'`
  );
}

function isOffline(): boolean {
  return ['HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'].some((name) => /^(1|true|yes|on)$/iu.test(process.env[name] ?? ''));
}

function cacheRoot(cacheDir: string | undefined): string {
  const { HF_HUB_CACHE, HF_HOME } = process.env;
  const chosen = cacheDir ?? (HF_HUB_CACHE || (HF_HOME && join(HF_HOME, 'hub')));
  if (chosen) return chosen;
  const cache = cacheFolder();
  if (cache === undefined)
    throw new LgdError('NOT_WRITABLE', 'there is no place for models of the hub: this user has no home folder.', {
      mend: 'Set HF_HOME to a folder for them, or give the folder of a model',
    });
  return join(cache, 'huggingface', 'hub');
}

function list(wanted: WantedFiles): string {
  return wanted.required.map((entry) => (typeof entry === 'string' ? entry : entry.join(' or '))).join(', ');
}

async function present(folder: string, wanted: WantedFiles): Promise<{ files: string[]; missing: string[] }> {
  const files: string[] = [];
  const missing: string[] = [];
  for (const entry of wanted.required) {
    const choices = [entry].flat();
    const found = await firstWhere(choices, (file) => isFile(join(folder, file)));
    if (found === undefined) missing.push((await Promise.all(choices.map((file) => named(folder, file)))).join(' or '));
    else files.push(join(folder, found));
  }
  // What was there would be replaced by a default, which is another model.
  for (const file of wanted.optional ?? [])
    if (await isDangling(join(folder, file))) missing.push(await named(folder, file));
  return { files, missing };
}

/** A file that is not there, and may look as if it were. */
async function named(folder: string, file: string): Promise<string> {
  return (await isDangling(join(folder, file))) ? `${file} (a link that leads nowhere)` : file;
}

/** Snapshot folders of a cached model, the one `refs/main` points to first. */
async function snapshots(root: string): Promise<string[]> {
  const main = (await readFile(join(root, 'refs', 'main'), 'utf8').catch(() => '')).trim();
  const commits = await readdir(join(root, 'snapshots')).catch(() => []);
  return commits
    .sort((a, b) => Number(b === main) - Number(a === main))
    .map((commit) => join(root, 'snapshots', commit));
}

async function download(id: string, root: string, wanted: WantedFiles, options: ResolveOptions): Promise<string> {
  const { commit, available } = await describeModel(id, options.signal);
  const chosen = wanted.required.map(
    (entry) => [entry].flat().find((file) => available.has(file)) ?? [entry].flat().join(' or '),
  );
  const missing = chosen.filter((file) => !available.has(file));
  if (missing.length > 0) {
    throw new LgdError('BAD_MODEL', `the model ${id} has no ${missing.join(', ')}.`, {
      mend: mendOf(missing, [...available]) ?? "Choose one exported for ONNX, such as 'Xenova/clip-vit-base-patch32'",
    });
  }
  const extra = [...(wanted.optional ?? []), ...chosen.map((file) => `${file}_data`)].filter((file) =>
    available.has(file),
  );
  const folder = join(root, 'snapshots', commit);
  for (const file of [...chosen, ...extra]) {
    if (await isFile(join(folder, file))) continue;
    await downloadFile(id, commit, file, join(folder, file), options);
  }
  const ref = join(root, 'refs', 'main');
  await makeFolder(dirname(ref));
  await writeFileAtomically(ref, commit);
  return folder;
}
