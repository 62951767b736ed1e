/**
 * A student as a model folder in the Hugging Face layout, for @xenova/transformers (as CLIPVisionModelWithProjection),
 * onnxruntime and this package's own teachers: config.json, preprocessor_config.json, onnx/vision_model.onnx (and
 * onnx/vision_model_quantized.onnx), and the text bank as text_bank.json and bank.safetensors.
 */
import { join } from 'node:path';
import { TextualSemanticsBank } from '../banks/textual.js';
import { parseMembers } from '../data/json-members.js';
import { writeJson } from '../files/json.js';
import { makeFolder } from '../files/make-folder.js';
import { openToRead } from '../files/open.js';
import { writeFileAtomically } from '../files/write-file.js';
import type { StudentInfo } from '../models/student-info.js';
import { readPreprocessor } from '../models/teachers/preprocessor.js';
import { version } from '../package.js';
import { exportFailed, type Comparison, type Reference } from './compare.js';
import { compareOnnx, onnxModel, writeOnnx } from './onnx.js';
import type { ExportSource } from './source.js';
import type { Written } from './written.js';

const modelFile = join('onnx', 'vision_model.onnx');
/** Beside it; @xenova/transformers loads it unless it is told not to, @huggingface/transformers as dtype q8. */
export const quantizedFile = join('onnx', 'vision_model_quantized.onnx');
const bankFile = 'bank.safetensors';

/**
 * What text_bank.json holds: names, and for each the unit row to compare embeddings with; softmax of cosines /
 * temperature are the student's probabilities.
 */
interface TextBankFile {
  names: readonly string[];
  templates: readonly string[];
  encoder: string;
  hash: string;
  temperature: number;
  embeddings: number[][];
}

/** @throws LgdError NOT_WRITABLE */
export async function writeTransformers(
  folder: string,
  source: ExportSource,
  { fold, temperature }: { fold: boolean; temperature: number },
): Promise<Written> {
  const { info, bank } = source;
  await makeFolder(join(folder, 'onnx'));
  const json = (name: string, content: unknown) => writeJson(join(folder, name), content);
  await json('config.json', {
    architectures: ['CLIPVisionModelWithProjection'],
    model_type: 'clip',
    projection_dim: info.embeddingSize,
    vision_config: { model_type: 'clip_vision_model', image_size: info.resolution, projection_dim: info.embeddingSize },
    lgdistill: { version, ...info },
  });
  await json('preprocessor_config.json', {
    feature_extractor_type: 'CLIPFeatureExtractor',
    image_processor_type: 'CLIPImageProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: { shortest_edge: info.resolution },
    resample: 3,
    do_center_crop: true,
    crop_size: { height: info.resolution, width: info.resolution },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: info.mean,
    image_std: info.std,
  });
  if (bank !== undefined) {
    await writeFileAtomically(join(folder, 'text_bank.json'), textBank(bank, temperature));
    await bank.save(join(folder, bankFile));
  }
  return writeOnnx(join(folder, modelFile), onnxModel(source, { head: 'keep', fold, classifier: undefined }));
}

/** The file's text, a row at a time: that of a hundred thousand names is longer than a string may be. */
function* textBank(
  { names, templates, encoderId, hash, size, embeddingSize, data }: TextualSemanticsBank,
  temperature: number,
): Generator<string, void, undefined> {
  const head: TextBankFile = { names, templates, encoder: encoderId, hash, temperature, embeddings: [] };
  yield JSON.stringify(head).slice(0, -']}'.length);
  for (let k = 0; k < size; k++) {
    // as many digits as a float32 has
    const row = Array.from(data.subarray(k * embeddingSize, (k + 1) * embeddingSize), (value) =>
      Number(value.toPrecision(9)),
    );
    yield `${k === 0 ? '' : ','}${JSON.stringify(row)}`;
  }
  yield ']}\n';
}

/**
 * Reads a folder of {@link writeTransformers} back: its input, its embeddings in onnxruntime, and its text bank.
 * @throws LgdError EXPORT_FAILED, DEPENDENCY_MISSING
 */
export async function compareTransformers(
  folder: string,
  source: ExportSource,
  fold: boolean,
  reference: Reference,
): Promise<Comparison> {
  const { info, bank } = source;
  const found = await readPreprocessor(folder);
  const inputOf = ({ resolution, mean, std }: Pick<StudentInfo, 'resolution' | 'mean' | 'std'>) =>
    JSON.stringify([resolution, mean, std]);
  if (found === undefined || inputOf(found) !== inputOf(info))
    throw exportFailed('its preprocessor_config.json describes another input');
  if (bank !== undefined) {
    if ((await TextualSemanticsBank.load(join(folder, bankFile))).hash !== bank.hash)
      throw exportFailed('its text bank differs');
    if (!(await holdsBank(join(folder, 'text_bank.json'), bank))) throw exportFailed('its text_bank.json differs');
  }
  return compareOnnx(join(folder, modelFile), source, { head: 'keep', fold, classifier: undefined }, reference);
}

/** Does a file of {@link textBank} hold this bank's names and rows? */
async function holdsBank(file: string, { names, size, embeddingSize, data }: TextualSemanticsBank): Promise<boolean> {
  const found = { names: 0, embeddings: 0 };
  let same = true;
  const isRow = (values: unknown, k: number) =>
    Array.isArray(values) &&
    values.length === embeddingSize &&
    values.every((value, i) => Math.fround(value as number) === data[k * embeddingSize + i]);
  try {
    await parseMembers((await openToRead(file)).createReadStream(), (key, member) => {
      if (key === 'names') same &&= member === names[found.names++];
      if (key === 'embeddings') same &&= isRow(member, found.embeddings++);
    });
  } catch (cause) {
    throw exportFailed('its text_bank.json cannot be read', cause);
  }
  return same && found.names === size && found.embeddings === size;
}
