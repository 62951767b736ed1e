// Builds the package in a checkout: TypeScript to dist/, the native addon with what this machine has. Says in one line
// what it built.
//   node scripts/build.mjs [--only ts|native] [--with cmake|gyp|plain|emulated] [--cuda on|off|auto] [--arch
//     all|native|"80;90a"|80-virtual] [--out folder] [--programs] [--verbose]
// "emulated" compiles the CUDA kernels for the host (test/native/emulation): a test build whose GPU is the CPU.
// --programs: the programs that check and time kernels, too; with $LGDISTILL_SANITIZE (address, undefined) those alone,
// into a folder of their own.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { checkCompiler, compile, compiler, fail, isFresh, isNewer } from './compile.mjs';
import { bin, root, run as runProgram } from './run.mjs';
import { allArchitectures, cudaTool, installedArchitectures, emulatedPrograms, programs, sources } from './sources.mjs';
import { compileTypeScript } from './typescript.mjs';

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

const run = (command, args, { quiet = !options.verbose } = {}) =>
  runProgram(command, args, quiet ? {} : { stdio: 'inherit' });
const has = (command, args = ['--version']) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

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

const addonOf = (files) => ({ file: 'lgdistill.node', sources: files, shared: true });

// For machines with a C++ compiler and nothing else: neither CMake nor Python.
const plain = {
  folder: 'build-plain',
  flags: { includes: [], options: ['-O3', '-DLGD_BUILD_ID="plain cpu"'], link: ['-s'] },
};

async function buildPlain() {
  const isShared = (name) => !process.env.CXXFLAGS && !asks(name); // flags that are given are meant for all
  const [shared, own] = [true, false].map((is) => sources('cpu').filter((name) => isShared(name) === is));
  await compile(plain.folder, [addonOf([...(await cpuObjects(shared)), ...own])], plain.flags);
  return ['build-plain/Release/lgdistill.node', `${compiler}, CPU only`];
}

/** Is a source another one in each build? Objects of all others serve every build. */
const asks = (name) => /LGD_(WITH_CUDA|BUILD_ID|VERSION|PORTABLE)/u.test(readFileSync(join(root, name), 'utf8'));

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
try {
  if (options.only !== 'native') {
    compileTypeScript();
    built.push('dist/ (ESM, CommonJS, types)');
  }
  if (options.only !== 'ts') built.push(await buildNative());
} catch (error) {
  fail(error.message);
}
console.log(`lgdistill: built ${built.join(' and ')}`);
