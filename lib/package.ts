import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LgdError } from './errors.js';

/** What to do where a bundler took this code away from the files that it needs. */
export const leaveOut =
  "Leave lgdistill out of the bundle: --external:lgdistill with esbuild, external with Rollup and Vite, externals: { lgdistill: 'commonjs lgdistill' } with webpack, serverExternalPackages with Next.js";

/** Undefined in a bundle of CommonJS, which has no such thing. */
const here = import.meta.url as string | undefined;
if (here === undefined)
  throw new LgdError('ADDON_NOT_FOUND', 'from a CommonJS bundle the native addon cannot be found.', { mend: leaveOut });

/** The folder of this package: of a checkout, an installation, or, in a bundle, whatever lies above the bundle's. */
export const packageRoot = new URL('..', here);

/** A folder of files that go with this code, which lies in `dist/` as a bundle, too. */
export function shippedFolder(path: string): string {
  return fileURLToPath(new URL(path, here));
}

const { name, version: found } = readManifest();

/** This package's version, as its package.json says; written into every file the package makes. */
export const version: string = found ?? 'unknown';

/** Whether this code lies in a bundler's output, away from package.json, the addon and the other files it reads. */
export const isBundled: boolean = name !== 'lgdistill';

function readManifest(): { name?: string; version?: string } {
  try {
    return JSON.parse(readFileSync(new URL('package.json', packageRoot), 'utf8')) as {
      name?: string;
      version?: string;
    };
  } catch {
    return {};
  }
}
