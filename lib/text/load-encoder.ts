import { checkOptions, optionsFor } from '../arguments.js';
import { resolveModel } from '../hub/hub.js';
import { sideFiles, weightFiles } from '../models/teachers/weight-files.js';
import { checkLoading, textEncoderOptions } from './encoder.js';
import { NativeTextEncoder, nativeTextEncoderOptions, type NativeTextEncoderOptions } from './native-encoder.js';
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
  const { files } = await resolveModel(
    idOrDir,
    { required: [[...textOnnxFiles, ...weightFiles], ...tokenizerFiles], optional: sideFiles },
    options,
  );
  return files[0]!.endsWith('.onnx')
    ? ClipTextEncoder.load(idOrDir, optionsFor(options, textEncoderOptions))
    : NativeTextEncoder.load(idOrDir, options);
}
