import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
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
  const lock = join(tmpdir(), `lgdistill-build-${createHash('sha256').update(root).digest('hex').slice(0, 16)}.lock`);
  while (!take(lock)) await new Promise((resolve) => setTimeout(resolve, 200));
  try {
    if (isStale()) {
      const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'build.mjs'), '--only', 'ts'], {
        encoding: 'utf8',
      });
      if (status !== 0) throw new Error(`the build failed: ${stderr}`);
    }
  } finally {
    rmSync(lock, { recursive: true });
  }
  return root;
}

/** Takes the lock; one that a killed test left is taken over after two minutes. */
function take(lock: string): boolean {
  try {
    mkdirSync(lock);
    return true;
  } catch {
    const since = statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - since > 120_000) rmSync(lock, { recursive: true, force: true });
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
