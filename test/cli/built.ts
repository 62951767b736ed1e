import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readlinkSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/**
 * Builds dist/ where a source is newer, once however many test files ask at the same time. Returns the checkout's
 * folder.
 */
export async function ensureBuilt(): Promise<string> {
  // of this checkout: others build beside it
  const lock = join(tmpdir(), `lgdistill-build-${createHash('sha256').update(root).digest('hex').slice(0, 16)}`);
  while (!take(lock)) await new Promise((resolve) => setTimeout(resolve, 200));
  try {
    if (isStale()) {
      const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'build.mjs'), '--only', 'ts'], {
        encoding: 'utf8',
      });
      if (status !== 0) throw new Error(`the build failed: ${stderr}`);
    }
  } finally {
    rmSync(lock);
  }
  return root;
}

/** Takes the lock, a link to the number of its process; one that a killed test left is taken over. */
function take(lock: string): boolean {
  try {
    symlinkSync(String(process.pid), lock);
    return true;
  } catch {
    try {
      process.kill(Number(readlinkSync(lock)), 0); // is it alive, however long it builds?
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') rmSync(lock, { force: true });
    }
    return false;
  }
}

function isStale(): boolean {
  const built = statSync(join(root, 'dist', 'cjs', 'package.json'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const sources = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.(ts|js|css)$/u.test(name),
  );
  return sources.some((name) => statSync(join(root, 'lib', name)).mtimeMs > built);
}
