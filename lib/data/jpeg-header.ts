/** The size of a plain JPEG, one that decodes to sRGB as it is: three components, no colour profile, no EXIF (which may turn it). undefined for any other file: a decoder has to look at it. */
export function plainJpegSize(file: Uint8Array): { width: number; height: number } | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.byteLength < 4 || view.getUint16(0) !== 0xffd8) return undefined;
  for (let at = 2; at + 9 < file.byteLength;) {
    if (file[at] !== 0xff) return undefined;
    const marker = file[at + 1]!;
    if (marker === 0xff) {
      at++; // a filler
      continue;
    }
    if (marker === 0xe1 || marker === 0xe2 || marker === 0xee || marker === 0xda) return undefined; // EXIF or XMP, profile, Adobe's colour transform; the picture before its size
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) {
      const [precision, height, width, components] = [file[at + 4]!, view.getUint16(at + 5), view.getUint16(at + 7), file[at + 9]!];
      return precision === 8 && components === 3 && width > 0 && height > 0 ? { width, height } : undefined;
    }
    at += 2 + view.getUint16(at + 2);
  }
  return undefined;
}
