/** What a file is, by its first bytes, so that none of another kind is replaced or read by mistake. */
import { open } from 'node:fs/promises';
import { LgdError, writeError } from '../errors.js';
import { statIfThere } from './folders.js';
import { closeRead } from './open.js';

/** Kinds of files that commands write. */
export type FileKind = 'safetensors' | 'onnx' | 'report';

const words: Readonly<Record<FileKind, string>> = {
  safetensors: 'a safetensors file',
  onnx: 'an ONNX file',
  report: 'a report',
};
const firstBytes = 4096;
// eight bytes of a text, or of ONNX, are a larger number; ids of millions of images make a header of hundreds of
// megabytes
const mostHeaderBytes = 2 ** 32;

/** A header's length, and the header, which is a JSON object, where it has begun. */
export function beginsAsSafetensors(bytes: Uint8Array): boolean {
  if (bytes.byteLength < 8) return false;
  return (
    new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true) <= mostHeaderBytes &&
    (bytes.byteLength === 8 || bytes[8] === 0x7b)
  );
}

/**
 * Protobuf of a ModelProto, as every exporter writes it: field 1, the version of the format, a small number; then a
 * field of another number. No text begins with such a byte.
 */
function beginsAsOnnx(bytes: Uint8Array): boolean {
  return bytes.byteLength > 2 && bytes[0] === 0x08 && bytes[1]! < 0x80 && bytes[2]! >> 3 > 1;
}

function beginsAsReport(bytes: Uint8Array): boolean {
  return new TextDecoder().decode(bytes).includes('<meta name="generator" content="lgdistill');
}

const tests: Readonly<Record<FileKind, (bytes: Uint8Array) => boolean>> = {
  safetensors: beginsAsSafetensors,
  onnx: beginsAsOnnx,
  report: beginsAsReport,
};

/**
 * May a file of this kind be written there? Yes where there is nothing, an empty file, or one of the same kind, which
 * is then replaced.
 * @param option what names the place, for the message
 * @param more what the mend says besides
 * @throws LgdError BAD_OPTION; NOT_WRITABLE for a file that cannot be read
 */
export async function checkReplaceable(path: string, kind: FileKind, option: string, more = ''): Promise<void> {
  const found = await statIfThere(path);
  if (found?.isDirectory() === true)
    throw new LgdError('BAD_OPTION', 'is a folder.', { option, found: path, mend: `Give the file to write${more}` });
  if (found?.isFile() !== true) return;
  const file = await open(path, 'r').catch((cause: unknown) => {
    throw writeError(path, cause);
  });
  try {
    const { buffer, bytesRead } = await file
      .read(Buffer.alloc(firstBytes), 0, firstBytes, 0)
      .catch((cause: unknown) => {
        throw writeError(path, cause);
      });
    if (bytesRead === 0 || tests[kind](buffer.subarray(0, bytesRead))) return;
  } finally {
    await closeRead(file);
  }
  throw new LgdError('BAD_OPTION', `there is a file already, which is not ${words[kind]}.`, {
    option,
    found: path,
    allowed: `a new file, or ${words[kind]} to replace`,
    mend: `Choose another place${more}, or remove that file first`,
  });
}
