// Compiles lib/ to a folder: ES modules and their types, one CommonJS bundle, and the types that go with it.
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { bin, root, run } from './run.mjs';

/** `sourceMaps`: maps point to lib/, which a published package lacks. */
export function compileTypeScript(folder = join(root, 'dist'), { sourceMaps = true } = {}) {
  const before = timesOf(folder);
  run(bin('tsc'), ['-p', 'tsconfig.json', '--outDir', folder, '--sourceMap', String(sourceMaps)]);
  // What the bundle imports from npm stays outside. import.meta.url has no CommonJS twin.
  run(bin('esbuild'), [
    'lib/index.ts',
    '--bundle',
    '--platform=node',
    '--format=cjs',
    '--packages=external',
    '--target=node20',
    `--outfile=${join(folder, 'index.cjs')}`,
    '--define:import.meta.url=__lgd_module_url',
    "--banner:js=const __lgd_module_url = require('node:url').pathToFileURL(__filename).href;",
    '--log-level=warning',
  ]);
  // what reports carry, as it is
  cpSync(join(root, 'lib/report/client'), join(folder, 'report/client'), { recursive: true });
  cpSync(join(root, 'lib/text/lists'), join(folder, 'text/lists'), { recursive: true });
  copyTypes(folder, join(folder, 'cjs'));
  chmodSync(join(folder, 'cli/start.cjs'), 0o755);
  removeUnwritten(folder, before);
}

/** When each file of a folder was written, by the clock of whoever keeps it: no other can be compared with it. */
export function timesOf(folder) {
  if (!existsSync(folder)) return new Map();
  return new Map(
    readdirSync(folder, { recursive: true })
      .map((name) => [join(folder, name), statSync(join(folder, name))])
      .filter(([, found]) => found.isFile())
      .map(([file, { mtimeMs }]) => [file, mtimeMs]),
  );
}

/**
 * A build writes all of its files: those as old as before are of modules that lib/ has no more. Another program may use
 * the rest.
 */
export function removeUnwritten(folder, before) {
  for (const [file, time] of timesOf(folder)) if (before.get(file) === time) rmSync(file);
}

/**
 * Types are ESM or CommonJS by the package.json above them: what the index reaches is copied below one that says
 * CommonJS.
 */
function copyTypes(from, to) {
  rmSync(to, { recursive: true, force: true });
  const reached = new Set(['index.d.ts']);
  for (const name of reached) {
    const text = readFileSync(join(from, name), 'utf8');
    for (const [, path] of text.matchAll(/(?:from |import\()["'](\.[^"']+)\.js["']/gu))
      reached.add(join(dirname(name), `${path}.d.ts`));
    mkdirSync(dirname(join(to, name)), { recursive: true });
    writeFileSync(join(to, name), text);
  }
  writeFileSync(join(to, 'package.json'), `${JSON.stringify({ type: 'commonjs' })}\n`);
}
