// Makes libraries to link with in the place of this machine's glibc, so that the addon also loads with an older one.
//   node scripts/glibc-stubs.mjs <folder> [compiler]      prints the libraries' paths, ';' between them; CMakeLists.txt
//     calls it
// A linker takes the newest version of each symbol that its glibc has: pthread_create of 2.34, exp of 2.29. glibc keeps
// the older versions for programs that were linked long ago. Each stub says that only those exist; it is empty
// otherwise, and at run time the machine's own library stands in its place.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { compareVersions, floor, versionedSymbols } from './glibc.mjs';
import { run } from './run.mjs';

// Where a symbol stood before glibc 2.34 took most libraries into libc.so.6: the older versions are found under that
// name.
const homes = [
  { name: 'libpthread.so.0', file: 'libc.so.6', pattern: /^(?:pthread|sem)_/u },
  { name: 'libdl.so.2', file: 'libc.so.6', pattern: /^dl(?:addr|close|error|info|mopen|open|sym|vsym)$/u },
  { name: 'librt.so.1', file: 'libc.so.6', pattern: /^(?:aio|mq|shm|timer)_/u },
  { name: 'libm.so.6', file: 'libm.so.6', pattern: /^(?:exp|exp2|log|log2|pow|hypot|fmod)f?$/u },
];

/**
 * Symbols whose newest version is above the floor though one within it exists: [name, the newest version within it].
 */
function olderVersions(file, pattern) {
  const within = new Map();
  const above = new Set();
  for (const { symbol, version } of versionedSymbols(file)) {
    if (!pattern.test(symbol)) continue;
    if (compareVersions(version, floor) > 0) above.add(symbol);
    else if (compareVersions(version, within.get(symbol) ?? '0') > 0) within.set(symbol, version);
  }
  return [...within].filter(([symbol]) => above.has(symbol));
}

function makeStub(folder, compiler, { name, file, pattern }) {
  const symbols = olderVersions(run(compiler, [`-print-file-name=${file}`]).trim(), pattern);
  const at = (extension) => join(folder, `${name}.${extension}`);
  writeFileSync(
    at('s'),
    symbols.map(([symbol]) => `.globl ${symbol}\n.type ${symbol}, @function\n${symbol}:\n`).join('') +
      '.section .note.GNU-stack,"",@progbits\n',
  );
  const versions = [...new Set(symbols.map(([, version]) => version))];
  writeFileSync(
    at('map'),
    versions
      .map(
        (version) =>
          `GLIBC_${version} { ${symbols
            .filter(([, own]) => own === version)
            .map(([symbol]) => `${symbol};`)
            .join(' ')} };\n`,
      )
      .join(''),
  );
  run(compiler, [
    '-shared',
    '-nostdlib',
    `-Wl,-soname,${name}`,
    `-Wl,--version-script,${at('map')}`,
    '-o',
    join(folder, name),
    at('s'),
  ]);
  return join(folder, name);
}

const [given, compiler = 'g++'] = process.argv.slice(2);
const folder = resolve(given); // programs run in the checkout's folder
mkdirSync(folder, { recursive: true });
process.stdout.write(homes.map((home) => makeStub(folder, compiler, home)).join(';'));
