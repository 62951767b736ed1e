// Lays out TypeScript and JavaScript with Prettier, C++ and CUDA with clang-format; both know 120 columns
// (.prettierrc.json, .clang-format) and leave comments and strings as they are.
//   npm run format                     writes
//   node scripts/format.mjs --check    fails, and names the files that differ; part of npm run lint
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const check = process.argv.includes('--check');

const files = ['native', 'lib', 'test', 'scripts', 'bench', 'examples'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true }).map((name) => `${folder}/${name}`),
);
const inRoot = readdirSync(root).filter((name) => /\.(ts|mjs)$/u.test(name));
const named = (endings) => files.filter((name) => endings.test(name));

const failed = [
  [
    'prettier',
    ...(check ? ['--check'] : ['--write', '--log-level', 'warn']),
    ...inRoot,
    ...named(/\.([cm]?ts|[cm]?js)$/u),
  ],
  ['clang-format', ...(check ? ['--dry-run', '--Werror'] : ['-i']), ...named(/\.(cu|cuh|h|cpp|inl)$/u)],
].filter(([tool, ...given]) => {
  const { status, error } = spawnSync(join(root, 'node_modules', '.bin', tool), given, { cwd: root, stdio: 'inherit' });
  if (error) throw error;
  return status !== 0;
});
if (failed.length > 0) process.exit(1);
