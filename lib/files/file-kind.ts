/** What a file is, by its first bytes, so that none of another kind is replaced or read by mistake. */

/** What a journal of a pack calls itself. */
export const journalFormat = 'lgdistill-pack-journal';

/** Kinds of files that commands write. */
export type FileKind = 'safetensors' | 'onnx' | 'report' | 'config' | 'pack' | 'journal' | 'names of images';

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

/** What a journal says first, or as much of it as a full disk has taken. */
function beginsAsJournal(bytes: Uint8Array): boolean {
  const first = `{"format":"${journalFormat}"`;
  return new TextDecoder().decode(bytes.subarray(0, first.length)) === first.slice(0, bytes.byteLength);
}

const tests: Readonly<Record<FileKind, (bytes: Uint8Array) => boolean>> = {
  safetensors: beginsAsSafetensors,
  onnx: beginsAsOnnx,
  report: beginsAsReport,
  config: (bytes) => /^\uFEFF?\s*\{/u.test(new TextDecoder().decode(bytes)),
  pack: (bytes) => new TextDecoder().decode(bytes).startsWith('LGDPACK'),
  journal: beginsAsJournal,
  'names of images': (bytes) => /^(?:image,name,cosine|\{"image":)/u.test(new TextDecoder().decode(bytes)),
};

/** Is it a file of this kind, by its first bytes, of which 4096 are enough? */
export function isOfKind(bytes: Uint8Array, kind: FileKind): boolean {
  return tests[kind](bytes);
}
