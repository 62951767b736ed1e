// Builds the package in a checkout: TypeScript to dist/, the native addon with what this machine has. Says in one line what it built.
//   node scripts/build.mjs [--only ts|native] [--with cmake|gyp|plain] [--cuda on|off|auto] [--arch all|native|"80;90a"] [--verbose]
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { sources } from './sources.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    with: { type: 'string' },
    cuda: { type: 'string', default: 'auto' },
    arch: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});

function run(command, args, { quiet = !options.verbose } = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: quiet ? 'pipe' : 'inherit', encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status === 0) return result.stdout ?? '';
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}\n${command} ${args.join(' ')} failed${result.error ? `: ${result.error.message}` : ''}\n`);
  process.exit(1);
}

const has = (command, args = ['--version']) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;
const bin = (name) => join(root, 'node_modules', '.bin', name);
const nvcc = () => (has('nvcc') ? 'nvcc' : ['/usr/local/cuda/bin/nvcc'].find((path) => existsSync(path)));

function buildTypeScript() {
  run(bin('tsc'), ['-p', 'tsconfig.json']);
  // The CommonJS entry is one bundle; what it imports from npm stays outside. import.meta.url has no CommonJS twin.
  run(bin('esbuild'), [
    'lib/index.ts', '--bundle', '--platform=node', '--format=cjs', '--packages=external', '--target=node20', '--outfile=dist/index.cjs',
    '--define:import.meta.url=__lgd_module_url', "--banner:js=const __lgd_module_url = require('node:url').pathToFileURL(__filename).href;",
    '--log-level=warning',
  ]);
  cpSync(join(root, 'dist/index.d.ts'), join(root, 'dist/index.d.cts'));
  chmodSync(join(root, 'dist/cli/main.js'), 0o755);
  return 'dist/ (ESM, CommonJS, types)';
}

function architectures(cuda) {
  if (!cuda) return undefined;
  if (options.arch === 'all') return '80;86;89;90a;100;120';
  if (options.arch) return options.arch;
  return has('nvidia-smi', ['-L']) ? 'native' : '80'; // without a GPU here: one architecture, and PTX for all later ones
}

function buildWithCmake() {
  const cuda = options.cuda !== 'off' && nvcc();
  const arch = architectures(cuda);
  run(bin('cmake-js'), [
    'compile', '--out', 'build-cmake', '--parallel', String(availableParallelism()),
    `--CDLGD_CUDA=${options.cuda.toUpperCase()}`, ...(arch ? [`--CDLGD_CUDA_ARCHITECTURES=${arch}`] : []),
  ]);
  return ['build-cmake/Release/lgdistill.node', cuda ? `cmake-js, CPU + CUDA (${arch}${arch === 'native' ? '' : ', PTX for later cards'})` : 'cmake-js, CPU only: no nvcc found'];
}

function buildWithGyp() {
  run(bin('node-gyp'), ['rebuild', '-j', 'max']);
  return ['build/Release/lgdistill.node', 'node-gyp, CPU only'];
}

// For machines with a C++ compiler and nothing else: neither CMake nor Python.
function buildPlain() {
  const compiler = process.env.CXX ?? 'g++';
  const out = join(root, 'build-plain', 'Release');
  mkdirSync(out, { recursive: true });
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const includes = ['native', require('node-addon-api').include_dir, require('node-api-headers').include_dir];
  const objects = sources('cpu').map((source) => {
    const object = join(out, `${source.replaceAll('/', '_')}.o`);
    run(compiler, [
      '-c', source, '-o', object, '-std=gnu++20', '-O3', '-fPIC', '-fno-math-errno', '-fno-trapping-math', '-ffp-contract=fast', '-fvisibility=hidden',
      '-DNAPI_VERSION=8', '-DNAPI_CPP_EXCEPTIONS', `-DLGD_VERSION="${version}"`, '-DLGD_BUILD_ID="plain cpu"', ...includes.flatMap((path) => ['-I', path]),
    ]);
    return object;
  });
  run(compiler, ['-shared', '-s', '-pthread', '-o', join(out, 'lgdistill.node'), ...objects]);
  return ['build-plain/Release/lgdistill.node', `${compiler}, CPU only: neither CMake nor Python found`];
}

function buildNative() {
  const way = options.with ?? (has('cmake') ? 'cmake' : has('python3') ? 'gyp' : 'plain');
  const build = { cmake: buildWithCmake, gyp: buildWithGyp, plain: buildPlain }[way];
  if (!build) {
    process.stderr.write(`--with: ${way} is not a way to build; use cmake, gyp or plain\n`);
    process.exit(2);
  }
  const [path, how] = build();
  return `${path} (${how}, ${(statSync(join(root, path)).size / 1e6).toFixed(1)} MB)`;
}

const built = [];
if (options.only !== 'native') built.push(buildTypeScript());
if (options.only !== 'ts') built.push(buildNative());
console.log(`lgdistill: built ${built.join(' and ')}`);
