import { checkOptions, optionsFor } from '../arguments.js';
import { lookLocally, resolveModel, type ResolveOptions } from '../hub/hub.js';
import { sideFiles, weightFiles } from '../models/teachers/weight-files.js';
import { checkLoading, textEncoderOptions, type TextEncoder } from './encoder.js';
import {
  lookAtNativeTower,
  NativeTextEncoder,
  nativeTextEncoderOptions,
  type NativeTextEncoderOptions,
} from './native-encoder.js';
import { ClipTextEncoder, textOnnxFiles } from './onnx-encoder.js';
import { tokenizerFiles } from './tokenizers.js';

/**
 * Loads the text tower of a model of CLIP's or SigLIP's: its ONNX export where there is one ({@link ClipTextEncoder}),
 * else the tower in its safetensors file ({@link NativeTextEncoder}).
 * @param idOrDir a folder (`./dir`, an absolute path, or any that exists) or a Hugging Face id
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND, BAD_MODEL, BAD_FILE, DEPENDENCY_MISSING, NOT_WRITABLE, ABORTED, and
 *   those of `openDevice`
 */
export async function loadTextEncoder(
  idOrDir: string,
  options: NativeTextEncoderOptions = {},
): Promise<ClipTextEncoder | NativeTextEncoder> {
  checkOptions(options, 'loadTextEncoder()', nativeTextEncoderOptions);
  checkLoading(idOrDir, options);
  return (await hasOnnx(idOrDir, options))
    ? ClipTextEncoder.load(idOrDir, optionsFor(options, textEncoderOptions))
    : NativeTextEncoder.load(idOrDir, options);
}

/** A text tower whose faults are known before anything else is opened. */
export interface TextTowerLook extends Pick<TextEncoder, 'id' | 'embeddingSize'> {
  /** Loaded, where nothing but loading it tells as much; it is the caller's. */
  encoder?: TextEncoder;
}

/**
 * Looks at what {@link loadTextEncoder} would load: its files and its tokenizer are there and fit, and how long its
 * embeddings are. A native tower's weights are not read.
 * @returns undefined where it would have to be fetched first
 * @throws as loadTextEncoder does
 */
export async function lookAtTextTower(idOrDir: string, options: ResolveOptions): Promise<TextTowerLook | undefined> {
  return lookLocally(idOrDir, options, async (local) => {
    if (!(await hasOnnx(idOrDir, local))) return lookAtNativeTower(idOrDir, local);
    const encoder = await ClipTextEncoder.load(idOrDir, local);
    return { id: encoder.id, embeddingSize: encoder.embeddingSize, encoder };
  });
}

async function hasOnnx(idOrDir: string, options: ResolveOptions): Promise<boolean> {
  const { files } = await resolveModel(
    idOrDir,
    { required: [[...textOnnxFiles, ...weightFiles], ...tokenizerFiles], optional: sideFiles },
    options,
  );
  return files[0]!.endsWith('.onnx');
}
