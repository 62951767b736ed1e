// Builds the package in a checkout: TypeScript to dist/, the native addon with what this machine has. Says in one line
// what it built.
//   node scripts/build.mjs [--only ts|native] [--with cmake|gyp|plain|emulated] [--cuda on|off|auto] [--arch
//     all|native|"80;90a"|80-virtual] [--out folder] [--programs] [--verbose]
// "emulated" compiles the CUDA kernels for the host (test/native/emulation): a test build whose GPU is the CPU.
// --programs: the programs that check and time kernels, too; with $LGDISTILL_SANITIZE (address, undefined) those alone,
// into a folder of their own.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { allArchitectures, cudaTool, installedArchitectures, emulatedPrograms, programs, sources } from './sources.mjs';
import { compileTypeScript } from './typescript.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    with: { type: 'string' },
    cuda: { type: 'string', default: 'auto' },
    arch: { type: 'string', default: process.env.LGDISTILL_CUDA_ARCH }, // npm ci passes no options on
    out: { type: 'string', default: 'build-cmake' },
    programs: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

if (![undefined, 'ts', 'native'].includes(options.only)) {
  console.error(`--only takes ts or native, not ${options.only}`);
  process.exit(2);
}

function run(command, args, { quiet = !options.verbose } = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: quiet ? 'pipe' : 'inherit',
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (result.status === 0) return result.stdout ?? '';
  process.stderr.write(
    `${result.stdout ?? ''}${result.stderr ?? ''}\n${command} ${args.join(' ')} failed${result.error ? `: ${result.error.message}` : ''}\n`,
  );
  process.exit(1);
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

const has = (command, args = ['--version']) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;
const bin = (name) => join(root, 'node_modules', '.bin', name);

function buildTypeScript() {
  try {
    compileTypeScript();
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  }
  return 'dist/ (ESM, CommonJS, types)';
}

function architectures(cuda) {
  const wrong = ['all', 'native'].includes(options.arch)
    ? undefined
    : options.arch?.split(';').find((one) => !/^(?:|\d{2,3}a?|\d{2,3}-virtual)$/u.test(one));
  if (wrong !== undefined)
    fail(
      `--arch (or LGDISTILL_CUDA_ARCH) '${options.arch}': '${wrong}' is no architecture. Allowed: all, native, or such as 80, 90a, "80;90a", 80-virtual`,
    );
  if (!cuda) return undefined;
  if (options.arch === 'all') return allArchitectures();
  if (options.arch === 'native')
    return installedArchitectures() ?? fail('--arch native: nvidia-smi tells of no compute capability here');
  if (options.arch) return options.arch;
  return installedArchitectures() ?? '80'; // without a GPU here: one architecture, and PTX for all later ones
}

// The nvcc that CMake finds, by the same rules; undefined: none. Refuses one that builds nothing here, which CMake
// would say in a hundred lines.
function findNvcc() {
  if (options.cuda === 'off') return undefined;
  const { CUDACXX, CUDAHOSTCXX } = process.env;
  const nvcc = cudaTool('nvcc');
  const otherwise = 'or build for the CPU alone (npm ci --ignore-scripts, npm run build -- --cuda off)';
  if (!nvcc && CUDACXX)
    fail(
      `CUDACXX: there is no nvcc at ${CUDACXX}. Name the nvcc of a toolkit, unset it for the one of PATH, ${otherwise}`,
    );
  if (!nvcc) return undefined;
  const version = run(nvcc, ['--version'], { quiet: true });
  const release = /release (\d+\.\d+)/u.exec(version)?.[1] ?? version;
  if (Number.parseFloat(release) < 12)
    fail(
      `CUDA ${release} (${nvcc}) is too old: 12.0 or later is needed. Name the nvcc of another toolkit (CUDACXX), ${otherwise}`,
    );
  const { status, stderr } = spawnSync(
    nvcc,
    [...(CUDAHOSTCXX ? ['-ccbin', CUDAHOSTCXX] : []), '-E', '-x', 'cu', '/dev/null'],
    { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' },
  );
  if (status !== 0)
    fail(
      `${stderr.trim()}\nCUDA ${release} (${nvcc}) does not work with the C++ compiler that it finds. Name one that it takes (CUDAHOSTCXX=g++-12), ${otherwise}`,
    );
  return { nvcc, version };
}

// CMake keeps to the compilers of a folder's first configuration, and to their versions: another toolkit at the same
// path would stay the old one.
function forgetOtherCompilers(cuda) {
  const folder = join(root, options.out);
  const note = join(folder, 'compilers.json');
  const before = existsSync(note) ? JSON.parse(readFileSync(note, 'utf8')) : {};
  const { CC = '', CXX = '', CUDAHOSTCXX = '' } = process.env;
  const now = { ...before, CC, CXX, CUDAHOSTCXX, ...cuda };
  if (Object.keys(before).some((name) => before[name] !== now[name]))
    for (const name of ['CMakeCache.txt', 'CMakeFiles']) rmSync(join(folder, name), { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(note, JSON.stringify(now));
}

function buildWithCmake() {
  const cuda = findNvcc();
  const arch = architectures(cuda);
  forgetOtherCompilers(cuda);
  const settings = [
    `--CDLGD_CUDA=${options.cuda.toUpperCase()}`,
    ...(arch ? [`--CDLGD_CUDA_ARCHITECTURES=${arch}`] : []),
  ];
  // build alone keeps what a folder was configured for before
  run(bin('cmake-js'), ['configure', '--out', options.out, ...settings]);
  run(bin('cmake-js'), ['build', '--out', options.out, '--parallel', String(availableParallelism())]);
  return [
    `${options.out}/Release/lgdistill.node`,
    cuda
      ? `cmake-js, CPU + CUDA (${arch}${/^\d+a$/u.test(arch) ? '' : ', PTX for later cards'})`
      : `cmake-js, CPU only: ${options.cuda === 'off' ? '--cuda off' : 'no nvcc found'}`,
  ];
}

function buildWithGyp() {
  // Headers that came with this Node, if they did; else node-gyp fetches them.
  const prefix = dirname(dirname(process.execPath));
  const headers = existsSync(join(prefix, 'include/node/common.gypi')) ? [`--nodedir=${prefix}`] : [];
  run(bin('node-gyp'), ['rebuild', '-j', 'max', ...headers]);
  return ['build/Release/lgdistill.node', 'node-gyp, CPU only'];
}

const compiler = process.env.CXX || 'g++';

// CMakeLists.txt checks the one that CMake finds.
function checkCompiler() {
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
async function compile(folder, targets, flags) {
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

const addonOf = (files) => ({ file: 'lgdistill.node', sources: files, shared: true });

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
const isNewer = (object, inputs) => {
  const made = statSync(object).mtimeMs;
  return inputs.every((input) => existsSync(input) && statSync(input).mtimeMs < made);
};

// The same by the compiler's dependency file.
function isFresh(object, list = object.replace(/\.o$/, '.d')) {
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

// For machines with a C++ compiler and nothing else: neither CMake nor Python.
const plain = {
  folder: 'build-plain',
  flags: { includes: [], options: ['-O3', '-DLGD_BUILD_ID="plain cpu"'], link: ['-s'] },
};

async function buildPlain() {
  await compile(plain.folder, [addonOf(sources('cpu'))], plain.flags);
  return ['build-plain/Release/lgdistill.node', `${compiler}, CPU only`];
}

// What executes the accesses of PTX to memory, and gives out that memory.
const accesses = ['runtime', 'ptx/memory', 'ptx/matrices', 'ptx/warpgroups'].map(
  (name) => `test/native/emulation/${name}.cpp`,
);

/**
 * Gives the object of a source in cmake-js's build if it is of what is there now. Ninja keeps to itself what the
 * compiler read.
 */
function cmakeObjects() {
  const folder = join(root, 'build-cmake');
  const objectOf = (file) => join(folder, 'CMakeFiles/lgdistill.dir', `${file}.o`);
  let isMade = (object) => isFresh(object, `${object}.d`);
  if (existsSync(join(folder, 'build.ninja')) && has('ninja')) {
    const entries = run('ninja', ['-C', folder, '-t', 'deps'])
      .split('\n\n')
      .map((entry) => entry.trim().split(/\n\s+/u));
    const read = new Map(
      entries.map(([name, ...inputs]) => [
        resolve(folder, name.split(':')[0]),
        inputs.map((input) => resolve(folder, input)),
      ]),
    );
    isMade = (object) => existsSync(object) && read.has(object) && isNewer(object, read.get(object));
  }
  return (file) => (isMade(objectOf(file)) ? objectOf(file) : undefined);
}

/**
 * Objects of the CPU's code, one a file: cmake-js's where it compiled what is there now, by the same flags, else the
 * plain build's.
 */
async function cpuObjects(files) {
  const made = files.map(cmakeObjects());
  const others = files.filter((_, i) => made[i] === undefined);
  const compiled = others.length === 0 ? [] : await compile(plain.folder, [{ sources: others }], plain.flags);
  return files.map((file, i) => made[i] ?? compiled[others.indexOf(file)]);
}

// The CPU's code is taken from another build, but for the files that ask which build they are in. The rest is for this
// machine alone (-march=native): tests spend most of their time in it, and take a quarter less.
async function buildEmulated() {
  const sanitizer = process.env.LGDISTILL_SANITIZE;
  const asks = (name) => /LGD_(WITH_CUDA|BUILD_ID|VERSION|PORTABLE)/u.test(readFileSync(join(root, name), 'utf8'));
  const [cpu, binding] = [false, true].map((is) =>
    sources('cpu').filter((name) => name.startsWith('native/binding/') === is),
  );
  const sharedCpu = await cpuObjects(cpu.filter((name) => !asks(name)));
  const own = cpu.filter(asks);
  const kernels = sources('cuda');
  const machine = sources('cpu', 'test/native/emulation');
  const link = (engine) =>
    Object.entries({ ...programs, ...emulatedPrograms }).map(([file, path]) => ({
      file,
      sources: [...engine, ...sources('cpu', path)],
    }));
  const flags = (sanitize) => ({
    includes: ['test/native/emulation', 'test/native'],
    options: [
      '-O2',
      '-march=native',
      '-g1',
      '-Wno-unknown-pragmas',
      '-DLGD_WITH_CUDA=1',
      '-DLGD_BUILD_ID="emulated cuda"',
      ...sanitize,
    ],
    link: sanitize,
  });
  const how = `${compiler}, CPU and emulated CUDA: for tests`;
  const engine = [...sharedCpu, ...own, ...machine, ...kernels];
  if (!sanitizer) {
    await compile(
      'build-emulated',
      [
        addonOf([...engine, ...(await cpuObjects(binding.filter((name) => !asks(name)))), ...binding.filter(asks)]),
        ...(options.programs ? link(engine) : []),
      ],
      flags([]),
    );
    return ['build-emulated/Release/lgdistill.node', how];
  }
  // The programs alone: Node itself has no AddressSanitizer for an addon to join. That one watches kernels where their
  // PTX is executed: the few files that do what it says to memory. All others are taken as they are, which halves the
  // time the programs take, and leaves a tenth of the compiler's.
  const folder = `build-emulated-${sanitizer}`;
  const all = [
    ...own,
    ...machine,
    ...kernels,
    ...Object.values({ ...programs, ...emulatedPrograms }).flatMap((path) => sources('cpu', path)),
  ];
  const asTheyAre = sanitizer === 'address' ? all.filter((name) => !accesses.includes(name)) : [];
  const objects = new Map(
    (await compile('build-emulated', [{ sources: asTheyAre }], flags([]))).map((object, i) => [asTheyAre[i], object]),
  );
  // Locals are not watched beyond their scope: that took two fifths of the compiler's time.
  const targets = link(engine).map((target) => ({
    ...target,
    sources: target.sources.map((name) => objects.get(name) ?? name),
  }));
  await compile(
    folder,
    targets,
    flags([`-fsanitize=${sanitizer}`, '-fno-sanitize-address-use-after-scope', '-fno-omit-frame-pointer', '-O1']),
  );
  return [`${folder}/Release/cuda_ops`, `${how}, with a check for ${sanitizer} faults`];
}

async function buildNative() {
  const way = options.with ?? (has('cmake') ? 'cmake' : has('python3') ? 'gyp' : 'plain');
  const build = { cmake: buildWithCmake, gyp: buildWithGyp, plain: buildPlain, emulated: buildEmulated }[way];
  if (!build) {
    process.stderr.write(`--with: ${way} is not a way to build; use cmake, gyp, plain or emulated\n`);
    process.exit(2);
  }
  if (way !== 'cmake') checkCompiler();
  const [path, how] = await build();
  return `${path} (${how}, ${(statSync(join(root, path)).size / 1e6).toFixed(1)} MB)`;
}

const built = [];
if (options.only !== 'native') built.push(buildTypeScript());
if (options.only !== 'ts') built.push(await buildNative());
console.log(`lgdistill: built ${built.join(' and ')}`);
