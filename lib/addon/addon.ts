/** Finds and loads the native addon, and makes its errors this package's. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import { LgdError, type ErrorCode } from '../errors.js';
import { packageRoot, version } from '../package.js';
import { checkSwitches } from '../switches.js';
import { nativeFunctions, type NativeAddon } from './native.js';
import {
  addonPlaces,
  explainAbsence,
  explainLoadError,
  explainVersion,
  formatAttempt,
  mendFor,
  packagedVersion,
  systemFacts,
  type AddonAttempt,
} from './search.js';

const require = createRequire(import.meta.url);
let loaded: LoadedAddon | undefined;
let emulated: NativeAddon | undefined;

interface LoadedAddon {
  addon: NativeAddon;
  path: string;
  /** Places that came before and hold an addon that cannot be used. */
  passedOver: readonly AddonAttempt[];
}

/**
 * Loads the addon once and returns it. Loading touches no GPU.
 * @throws LgdError ADDON_NOT_FOUND with every place that was tried and why it failed, BAD_OPTION of an environment
 *   variable
 */
export function loadAddon(): NativeAddon {
  loaded ??= find();
  return loaded.addon;
}

/** The file that {@link loadAddon} took. */
export function addonPath(): string {
  loaded ??= find();
  return loaded.path;
}

/**
 * What lay before the addon of {@link loadAddon} and could not be loaded: worth knowing, since the next place was taken
 * instead.
 */
export function passedOverAddons(): readonly AddonAttempt[] {
  loaded ??= find();
  return loaded.passedOver;
}

/** Where the addon whose GPU is the CPU may be: $LGDISTILL_EMULATED_ADDON, or its place in a checkout. */
export function emulatedAddonPath(): string {
  return resolve(
    process.env['LGDISTILL_EMULATED_ADDON'] ||
      fileURLToPath(new URL('build-emulated/Release/lgdistill.node', packageRoot)),
  );
}

/**
 * Loads, beside the addon of {@link loadAddon}, the one whose CUDA kernels were compiled for the host (device
 * 'cuda-emulated'), once, and returns it. Objects of the two do not mix.
 * @throws LgdError DEVICE_UNAVAILABLE where it is not built, or belongs to another version
 */
export function loadEmulatedAddon(): NativeAddon {
  const path = emulatedAddonPath();
  try {
    emulated ??= wrapAddon(require(path) as NativeAddon);
  } catch (cause) {
    throw new LgdError(
      'DEVICE_UNAVAILABLE',
      existsSync(path)
        ? `the emulated GPU cannot be loaded: ${(cause as Error).message}.`
        : 'the emulated GPU is not built; it is a test build and no part of the npm package.',
      {
        option: 'device',
        found: 'cuda-emulated',
        mend: 'In a checkout, build it with `node scripts/build.mjs --only native --with emulated`',
        cause,
      },
    );
  }
  return emulated;
}

function find(): LoadedAddon {
  checkSwitches();
  const attempts: AddonAttempt[] = [];
  const errors: unknown[] = [];
  for (const place of addonPlaces()) {
    const { name, path } = place;
    const fault = explainAbsence(place) ?? explainVersion(name, packagedVersion(place) ?? version);
    if (fault !== undefined || path === undefined) {
      if (fault !== undefined) attempts.push(fault);
      continue;
    }
    try {
      const raw = require(path) as NativeAddon;
      const wrong = explainVersion(name, raw.buildInfo().version);
      if (wrong === undefined)
        return { addon: wrapAddon(raw), path, passedOver: attempts.filter((attempt) => attempt.fault !== 'not there') };
      attempts.push(wrong);
    } catch (error) {
      errors.push(error);
      attempts.push(explainLoadError(name, error, systemFacts()));
    }
  }
  throw new LgdError(
    'ADDON_NOT_FOUND',
    `the native addon could not be loaded. Tried: ${attempts.map(formatAttempt).join('; ')}.`,
    {
      mend: mendFor(attempts, systemFacts()),
      cause: errors.length > 0 ? new AggregateError(errors) : undefined,
    },
  );
}

/** Native errors carry a code; turns them into LgdError, with the stack of the caller for asynchronous calls. */
function wrapAddon(raw: NativeAddon): NativeAddon {
  const wrapped: Record<string, unknown> = {};
  for (const name of nativeFunctions) {
    const call = raw[name] as (...args: unknown[]) => unknown;
    if (typeof call !== 'function')
      throw new Error(`the addon has no function ${name}; it belongs to another version, rebuild it`);
    wrapped[name] = (...args: unknown[]): unknown => {
      let result: unknown;
      try {
        result = call(...args);
      } catch (error) {
        throw asLgdError(error);
      }
      if (!types.isPromise(result)) return result;
      const caller = new Error(name);
      return result.catch((error: unknown) => {
        const converted = asLgdError(error);
        converted.stack = `${converted.name}: ${converted.message}\n${(caller.stack ?? '').split('\n').slice(2).join('\n')}`;
        throw converted;
      });
    };
  }
  return wrapped as unknown as NativeAddon;
}

function asLgdError(error: unknown): LgdError {
  if (error instanceof LgdError) return error;
  const { code, message } = error as { code?: string; message?: string };
  return new LgdError((code ?? 'NATIVE_ERROR') as ErrorCode, message ?? String(error), { cause: error });
}
