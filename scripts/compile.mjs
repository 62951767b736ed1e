// Builds with a C++ compiler alone: files are compiled again when they, what they include or the flags changed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { root, run } from './run.mjs';

const require = createRequire(import.meta.url);

export function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

export const compiler = process.env.CXX || 'g++';

// CMakeLists.txt checks the one that CMake finds.
export function checkCompiler() {
  const { status, stdout } = spawnSync(compiler, ['-dM', '-E', '-x', 'c++', '/dev/null'], { encoding: 'utf8' });
  if (status !== 0)
    fail(`the C++ compiler ${compiler} does not start: install GCC 11 or later, or name it (CXX=g++-12)`);
  const version = Number(/#define __GNUC__ (\d+)/u.exec(stdout)?.[1]);
  const isClang = stdout.includes('#define __clang__ ');
  if (isClang || !(version >= 11))
    fail(`${compiler} is ${isClang ? 'Clang' : `GCC ${version}`}: GCC 11 or later is needed. Name it: CXX=g++-12`);
}

// Compiles and links with the plain compiler, as many files at a time as there are cores; files are compiled again when
// they or the flags changed. `targets`: what to link, { file, sources, shared }; no file: compile only; a source that
// ends in .o is taken as it is. Returns the objects' paths.
export async function compile(folder, targets, flags) {
  const out = join(root, folder, 'Release');
  mkdirSync(out, { recursive: true });
  const unlock = await lock(join(root, folder, 'lock'));
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const includes = [
    ...flags.includes,
    'native',
    require('node-addon-api').include_dir,
    require('node-api-headers').include_dir,
  ];
  const common = [
    '-std=gnu++20',
    '-fPIC',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-ffp-contract=fast',
    '-fvisibility=hidden',
    '-MMD',
    '-DNAPI_VERSION=8',
    '-DNAPI_CPP_EXCEPTIONS',
    '-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
    `-DLGD_VERSION="${version}"`,
    ...flags.options,
    ...includes.flatMap((path) => ['-I', path]),
    ...(process.env.CXXFLAGS ?? '').split(/\s+/u).filter(Boolean),
  ];
  const objectOf = (source) => (source.endsWith('.o') ? source : join(out, `${source.replaceAll('/', '_')}.o`));
  const all = [...new Set(targets.flatMap((target) => target.sources))];
  const [flagsFile, command] = [join(out, 'flags'), [compiler, ...common].join('\n')];
  if (!existsSync(flagsFile) || readFileSync(flagsFile, 'utf8') !== command) {
    for (const name of readdirSync(out).filter((one) => /\.(?:o|gch)$/u.test(one))) rmSync(join(out, name));
    writeFileSync(flagsFile, command);
  }
  const waiting = all
    .filter((source) => !source.endsWith('.o'))
    .map((source) => ({ source, object: objectOf(source) }))
    .filter(({ object }) => !isFresh(object));
  const prefix = waiting.length > 10 ? await precompile(out, common) : [];
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let job; (job = waiting.shift());)
        await runAsync(compiler, ['-c', '-x', 'c++', job.source, '-o', job.object, ...prefix, ...common]);
    }),
  );
  for (const { file, sources: parts, shared } of targets.filter((target) => target.file !== undefined)) {
    const [path, objects] = [join(out, file), parts.map(objectOf)];
    if (existsSync(path) && objects.every((object) => statSync(object).mtimeMs <= statSync(path).mtimeMs)) continue;
    run(compiler, [
      ...(shared ? ['-shared', '-Wl,-z,nodelete'] : []),
      '-pthread',
      ...flags.link,
      '-o',
      `${path}.new`,
      ...objects,
    ]);
    renameSync(`${path}.new`, path); // a process that has the old one loaded keeps it
  }
  unlock();
  return all.map(objectOf);
}

// Options by which files get the headers that most of them include, compiled once: which takes as long as it saves with
// a few files.
async function precompile(out, flags) {
  const [header, compiled] = ['precompiled.h', 'precompiled.h.gch'].map((name) => join(out, name));
  if (!isFresh(compiled, `${header}.d`)) {
    writeFileSync(header, '#include "core/precompiled.h"\n'); // for a compiler that cannot use what is beside it
    await runAsync(compiler, ['-x', 'c++-header', header, '-o', compiled, ...flags, '-MF', `${header}.d`]);
  }
  return ['-include', header];
}

// One build at a time in a folder; a lock whose owner died is taken over.
async function lock(path) {
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      const unlock = () => rmSync(path, { force: true });
      process.once('exit', unlock);
      return unlock;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      if (!isAlive(path)) rmSync(path, { force: true });
      else await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

function isAlive(path) {
  try {
    const owner = Number(readFileSync(path, 'utf8'));
    return owner === 0 || process.kill(owner, 0);
  } catch (error) {
    return error.code !== 'ESRCH' && error.code !== 'ENOENT';
  }
}

// Newer than everything that the compiler read for it?
export const isNewer = (object, inputs) => {
  const made = statSync(object).mtimeMs;
  return inputs.every((input) => existsSync(input) && statSync(input).mtimeMs < made);
};

// The same by the compiler's dependency file.
export function isFresh(object, list = object.replace(/\.o$/, '.d')) {
  if (!existsSync(object) || !existsSync(list)) return false;
  return isNewer(
    object,
    readFileSync(list, 'utf8')
      .replace(/\\\n/g, ' ')
      .split(/\s+/)
      .slice(1)
      .filter(Boolean)
      .map((input) => resolve(root, input)),
  );
}

function runAsync(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('close', (status) => {
      if (status !== 0) process.exit(1);
      resolve();
    });
  });
}
