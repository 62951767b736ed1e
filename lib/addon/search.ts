/** Where the native addon may be, and why one that is there does not load. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mendOfForbidden, mendOfUnmapped, messageOf, unmapped } from '../errors.js';
import { isBundled, leaveOut, packageRoot, version } from '../package.js';

const require = createRequire(import.meta.url);

/** The package that carries the addon for this system; built by scripts/package.mjs. */
export const prebuiltPackage = `@lgdistill/${process.platform}-${process.arch}`;
/** The systems that have such a package. */
const prebuiltSystems: readonly string[] = ['linux-x64'];

/** Why an addon was not taken. */
export type AddonFault =
  | 'not there'
  | 'another system'
  | 'musl'
  | 'older glibc'
  | 'missing symbol'
  | 'another version'
  | 'forbidden'
  | 'unmapped'
  | 'broken';

/** One place that was tried. */
export interface AddonAttempt {
  place: string;
  fault: AddonFault;
  /** What was found there. */
  detail: string;
}

export interface AddonPlace {
  /** What errors call it. */
  name: string;
  /** The file; undefined for a package that is not installed. */
  path: string | undefined;
}

/** What there is to know of the system, for explanations; gathered only once something went wrong. */
export interface SystemFacts {
  platform: string;
  arch: string;
  /** '2.36'; undefined where the C library is another one (musl). */
  glibc: string | undefined;
  /** Whether this package lies in a checkout with its sources. */
  checkout: boolean;
}

/**
 * Where to look, in order: $LGDISTILL_ADDON alone if it is set; else what cmake-js, node-gyp and the plain compiler
 * built in a checkout; then the prebuilt package.
 */
export function addonPlaces(): AddonPlace[] {
  const override = process.env['LGDISTILL_ADDON'];
  if (override) return [{ name: `$LGDISTILL_ADDON (${override})`, path: resolve(override) }];
  // An installation straight from git has builds, too, without the sources.
  const local = ['build-cmake', 'build', 'build-plain']
    .map((folder) => fileURLToPath(new URL(`${folder}/Release/lgdistill.node`, packageRoot)))
    .filter((path) => isCheckout() || existsSync(path));
  return [...local.map((path) => ({ name: path, path })), { name: prebuiltPackage, path: resolvePrebuilt() }];
}

/** Whether this package lies in a checkout with its sources. */
export function isCheckout(): boolean {
  return existsSync(new URL('CMakeLists.txt', packageRoot));
}

function resolvePrebuilt(): string | undefined {
  try {
    return require.resolve(prebuiltPackage);
  } catch {
    return undefined;
  }
}

/** The system as the explanations need it. */
export function systemFacts(): SystemFacts {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const { excludeNetwork } = report;
  report.excludeNetwork = true; // looking up the names of open connections can take seconds
  const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  report.excludeNetwork = excludeNetwork;
  return { platform: process.platform, arch: process.arch, glibc: header.glibcVersionRuntime, checkout: isCheckout() };
}

/** Why loading failed, from the error of `require` and what the system is. */
export function explainLoadError(place: string, error: unknown, { glibc, platform, arch }: SystemFacts): AddonAttempt {
  const [message = ''] = messageOf(error).split('\n');
  if ((error as NodeJS.ErrnoException | undefined)?.code === 'ERR_DLOPEN_DISABLED')
    return { place, fault: 'forbidden', detail: 'this process may load no native addon' };
  const wanted = /version `GLIBC_([\d.]+)' not found/u.exec(message)?.[1];
  if (wanted !== undefined)
    return {
      place,
      fault: 'older glibc',
      detail: `needs glibc ${wanted}, this system has ${glibc ?? 'another C library'}`,
    };
  if (platform === 'linux' && glibc === undefined)
    return { place, fault: 'musl', detail: `built for glibc, this system has musl (${message})` };
  if (
    /invalid ELF header|wrong ELF class|cannot open shared object file: .*architecture|not a valid Win32|mach-o/iu.test(
      message,
    )
  ) {
    return { place, fault: 'another system', detail: `not built for ${platform} ${arch} (${message})` };
  }
  if (/undefined symbol|version `\w+_[\d.]+' not found/u.test(message))
    return { place, fault: 'missing symbol', detail: message };
  return { place, fault: unmapped.test(message) ? 'unmapped' : 'broken', detail: message };
}

/**
 * What a package says of itself that is not this version, or undefined. The addon's own version is checked after
 * loading.
 */
export function explainVersion(place: string, found: string): AddonAttempt | undefined {
  return found === version
    ? undefined
    : { place, fault: 'another version', detail: `version ${found}, but lgdistill is ${version}` };
}

/** An absent file or package. */
export function explainAbsence({ name, path }: AddonPlace): AddonAttempt | undefined {
  if (path === undefined) return { place: name, fault: 'not there', detail: 'not installed' };
  return existsSync(path) ? undefined : { place: name, fault: 'not there', detail: 'not there' };
}

/** `place: fault: detail`, or `place: not there`. */
export function formatAttempt({ place, fault, detail }: AddonAttempt): string {
  return fault === 'not there' || fault === 'forbidden' || fault === 'unmapped' || fault === 'broken'
    ? `${place}: ${detail}`
    : `${place}: ${fault}: ${detail}`;
}

/** The one thing to type, after all attempts failed. */
export function mendFor(attempts: readonly AddonAttempt[], { platform, arch, glibc, checkout }: SystemFacts): string {
  const faults = new Set(attempts.map(({ fault }) => fault));
  const sources = 'Build it in a checkout of the sources: npm ci (needs GCC 11 or later)';
  if (faults.has('forbidden')) return mendOfForbidden;
  if (faults.has('unmapped')) return mendOfUnmapped;
  if (isBundled) return leaveOut;
  if (process.env['LGDISTILL_ADDON']) return 'Unset LGDISTILL_ADDON, or name an addon of this version';
  if (checkout) return 'Build it with `npm run build:native` (needs GCC 11 or later; CMake or Python if present)';
  if (!prebuiltSystems.includes(`${platform}-${arch}`))
    return `There is no prebuilt addon for ${platform} ${arch}. ${sources}`;
  if (glibc === undefined)
    return `The prebuilt addon needs glibc: take a system or image that has it (node:20-bookworm-slim). Or: ${sources}`;
  if (faults.has('older glibc')) return `Take a newer system or image (node:20-bookworm-slim). Or: ${sources}`;
  return `Type: npm install --include=optional ${prebuiltPackage}@${version}`;
}

/** The version in the package.json beside a prebuilt addon, or undefined for any other file. */
export function packagedVersion({ name, path }: AddonPlace): string | undefined {
  if (name !== prebuiltPackage || path === undefined) return undefined;
  return (JSON.parse(readFileSync(require.resolve(`${prebuiltPackage}/package.json`), 'utf8')) as { version: string })
    .version;
}
