import { homedir } from 'node:os';
import { join } from 'node:path';

/**
 * Where this user's programs keep what they can get again: $XDG_CACHE_HOME or ~/.cache. Undefined without a home, such
 * as in a container under a number that is no user there.
 */
export function cacheFolder(): string | undefined {
  const { XDG_CACHE_HOME } = process.env;
  if (XDG_CACHE_HOME) return XDG_CACHE_HOME;
  try {
    const home = homedir();
    return home === '' ? undefined : join(home, '.cache');
  } catch {
    return undefined;
  }
}
