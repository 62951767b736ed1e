import { readFileSync } from 'node:fs';

/** The folder of this package: of a checkout, an installation, or, in a bundle, whatever lies above the bundle's. */
export const packageRoot = new URL('..', import.meta.url);

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
