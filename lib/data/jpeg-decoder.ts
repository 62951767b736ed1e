/**
 * Finds libjpeg-turbo, which decodes plain JPEG files in half of sharp's time. It is an optional dependency: without it
 * sharp decodes them.
 */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { loadAddon } from '../addon/addon.js';
import type { NativeAddon } from '../addon/native.js';
import { LgdError } from '../errors.js';

/** Which decoder plain JPEG files go to. */
export interface JpegDecoder {
  /** 'libjpeg-turbo', or 'sharp' where that cannot be loaded. */
  name: 'libjpeg-turbo' | 'sharp';
  /** The shared library; undefined for sharp. */
  path: string | undefined;
  /** Why each place that was tried before has none, in words. */
  reasons: readonly string[];
}

/** The package that carries it, for messages. */
export const jpegCarrier = '@julusian/jpeg-turbo@2.3.0';

const carrier = '@julusian/jpeg-turbo';
const systemLibrary = 'libturbojpeg.so.0';

const opened = new WeakMap<NativeAddon, JpegDecoder>();

/**
 * Opens the decoder on the first call: $LGDISTILL_TURBOJPEG alone where it is set ('off': sharp), else the library of
 * the optional dependency, else the system's.
 * @param addon the one that will decode; each has a decoder of its own
 */
export function openJpegDecoder(addon = loadAddon()): JpegDecoder {
  const decoder = opened.get(addon) ?? open(addon, process.env['LGDISTILL_TURBOJPEG'] || undefined);
  opened.set(addon, decoder);
  return decoder;
}

function open(addon: NativeAddon, wish: string | undefined): JpegDecoder {
  if (wish === 'off') return { name: 'sharp', path: undefined, reasons: ['LGDISTILL_TURBOJPEG is off'] };
  const reasons: string[] = [];
  const places = wish === undefined ? [carriedLibrary, () => systemLibrary] : [() => wish];
  for (const place of places) {
    try {
      const path = place();
      addon.openJpegDecoder(path);
      return { name: 'libjpeg-turbo', path, reasons };
    } catch (error) {
      if (error instanceof LgdError && error.code !== 'DEPENDENCY_MISSING') throw error;
      reasons.push((error as Error).message.split('\n')[0]!);
    }
  }
  return { name: 'sharp', path: undefined, reasons };
}

function carriedLibrary(): string {
  const folder = dirname(createRequire(import.meta.url).resolve(`${carrier}/package.json`));
  return join(folder, 'prebuilds', `jpeg-turbo-${process.platform}-${process.arch}`, systemLibrary);
}
