/**
 * What a JPEG says of itself before its picture: as much as is needed to decode it without asking the decoder first.
 */

/** Of a JPEG file. */
export interface JpegHeader {
  /** In pixels. */
  width: number;
  height: number;
  /** Its colours' ICC profile; undefined for sRGB. */
  profile: Uint8Array | undefined;
}

/**
 * The header of a JPEG that is upright and has three components, so that its pixels can be taken as they are but for
 * their colours. undefined for any other file: a decoder has to look at it.
 */
export function readJpegHeader(file: Uint8Array): JpegHeader | undefined {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (bytes.length < 4 || bytes.readUInt16BE(0) !== 0xffd8) return undefined;
  let profile: Uint8Array | undefined;
  let size: { width: number; height: number } | undefined;
  for (let at = 2; at + 9 < bytes.length;) {
    if (bytes[at] !== 0xff) return undefined;
    const marker = bytes[at + 1]!;
    if (marker === 0xff) {
      at++; // a filler
      continue;
    }
    const segment = bytes.subarray(at + 4, at + 2 + bytes.readUInt16BE(at + 2));
    if (marker === 0xe1 && isTurned(segment)) return undefined;
    if (marker === 0xe2 && isProfile(segment)) {
      if (segment[13] !== 1 || profile !== undefined) return undefined; // in several segments, as only large ones are
      profile = segment.subarray(14);
    }
    if (isFrame(marker)) {
      size = sizeOf(segment);
      if (size === undefined) return undefined;
    }
    // the picture; EXIF may stand between it and its size
    if (marker === 0xda)
      return size && { ...size, profile: profile === undefined || isSrgb(profile) ? undefined : profile };
    at += 4 + Math.max(0, bytes.readUInt16BE(at + 2) - 2);
  }
  return undefined;
}

function isFrame(marker: number): boolean {
  // those three are tables
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}

function sizeOf(frame: Buffer): { width: number; height: number } | undefined {
  if (frame.length < 6) return undefined;
  const [precision, height, width, components] = [frame[0], frame.readUInt16BE(1), frame.readUInt16BE(3), frame[5]];
  return precision === 8 && components === 3 && width > 0 && height > 0 ? { width, height } : undefined;
}

const mostProfileBytes = 4096; // sRGB's own profile has 3,144

function isProfile(segment: Buffer): boolean {
  return segment.toString('latin1', 0, 11) === 'ICC_PROFILE';
}

function isSrgb(profile: Uint8Array): boolean {
  return (
    profile.length <= mostProfileBytes &&
    Buffer.from(profile.buffer, profile.byteOffset, profile.length).includes('sRGB IEC61966-2.1')
  );
}

const orientationTag = 0x0112;

/** An EXIF segment with an orientation other than upright, or one that cannot be read. */
function isTurned(segment: Buffer): boolean {
  if (segment.toString('latin1', 0, 6) !== 'Exif\0\0') return false;
  const tiff = segment.subarray(6);
  const little = tiff.toString('latin1', 0, 2) === 'II';
  const read16 = (at: number) => (little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  try {
    const first = little ? tiff.readUInt32LE(4) : tiff.readUInt32BE(4);
    const entries = read16(first);
    for (let i = 0; i < entries; i++) {
      const at = first + 2 + 12 * i;
      if (read16(at) === orientationTag) return read16(at + 8) !== 1;
    }
    return false;
  } catch {
    return true;
  }
}
