// Makes the two packages that would be published, as tarballs: lgdistill (JavaScript and types) and
// @lgdistill/linux-x64 (the addon).
//   npm run package -- [--out dist-packages] [--cuda on|off|auto] [--arch all|"80;90a"]    builds the addon for it, in
//     build-package/
//   npm run package -- --addon build-cmake/Release/lgdistill.node                          takes one that is built
//     already
// Neither has a script that runs on installing. Prints what is in them, how large they are, and the oldest glibc that
// the addon loads with.
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { glibcFloor } from './glibc.mjs';
import { addonManifest, addonName, mainManifest } from './package/manifests.mjs';
import { addonNotice, describeAddon } from './package/describe.mjs';
import { packedPages } from './package/pages.mjs';
import { root, run } from './run.mjs';
import { compileTypeScript } from './typescript.mjs';

const largest = 100e6; // bytes of a tarball that registries and mirrors take without trouble
const { values: options } = parseArgs({
  options: {
    out: { type: 'string', default: 'dist-packages' },
    cuda: { type: 'string', default: 'auto' },
    arch: { type: 'string', default: 'all' },
    addon: { type: 'string' },
  },
});

function buildAddon() {
  console.log(
    `building the addon (cuda ${options.cuda}, arch ${options.arch}); a CUDA build for all cards takes a while`,
  );
  run(process.execPath, [
    'scripts/build.mjs',
    '--only',
    'native',
    '--with',
    'cmake',
    '--out',
    'build-package',
    '--cuda',
    options.cuda,
    '--arch',
    options.arch,
  ]);
  return join(root, 'build-package', 'Release', 'lgdistill.node');
}

/** Copies the addon without the names of its internals, and learns what it is. */
function stageAddon(folder, source) {
  const file = join(folder, 'lgdistill.node');
  copyFileSync(source, file);
  run('strip', ['--strip-unneeded', file]);
  const build = createRequire(import.meta.url)(file).buildInfo();
  const glibc = glibcFloor(file);
  return { build, glibc, bytes: statSync(file).size };
}

/** Packs a folder; returns npm's own account of the tarball. */
function pack(folder, out) {
  const [account] = JSON.parse(
    run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', out], { cwd: folder }),
  );
  if (account.size > largest) {
    throw new Error(
      `${account.filename} has ${megabytes(account.size)}, more than ${megabytes(largest)}: build it for fewer cards (--arch), or part the code of some into a package of its own`,
    );
  }
  return account;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** Makes a package's folder. @param files their content by path */
function stage(name, manifest, files, out) {
  const folder = join(out, 'stage', name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`);
  for (const [path, content] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
  return folder;
}

function main() {
  if (`${process.platform}-${process.arch}` !== 'linux-x64')
    throw new Error(`packages are made for linux-x64, this is ${process.platform}-${process.arch}`);
  const out = resolve(root, options.out);
  const checkout = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const source = options.addon === undefined ? buildAddon() : resolve(options.addon);
  rmSync(out, { recursive: true, force: true });

  const folder = join(out, 'stage', addonName);
  mkdirSync(folder, { recursive: true });
  const { build, glibc, bytes } = stageAddon(folder, source);
  if (build.version !== checkout.version)
    throw new Error(`${source} is version ${build.version}, package.json says ${checkout.version}: build it again`);
  const read = (file) => readFileSync(join(root, file), 'utf8');
  stage(
    addonName,
    addonManifest(checkout, build, glibc.version),
    new Map([
      ['LICENSE', read('LICENSE')],
      ['NOTICE', addonNotice(read('NOTICE'), read('node_modules/node-addon-api/LICENSE.md'), build)],
      ['README.md', describeAddon(build, glibc.version)],
    ]),
    out,
  );
  const main = stage('lgdistill', mainManifest(checkout), packedPages(root), out);
  compileTypeScript(join(main, 'dist'), { sourceMaps: false });

  for (const account of [pack(main, out), pack(folder, out)]) {
    console.log(
      `${join(options.out, account.filename)}: ${account.entryCount} files, ${megabytes(account.size)} packed, ${megabytes(account.unpackedSize)} unpacked`,
    );
  }
  console.log(
    `addon: ${megabytes(bytes)}, ${build.cuda ? `CUDA ${build.cudaRuntime / 1000}, code for ${build.cudaArchitectures.join(', ')} and PTX for later cards` : 'CPU only'}`,
  );
  console.log(`addon: needs glibc ${glibc.version} or later, because of ${glibc.symbols.slice(0, 5).join(', ')}`);
}

try {
  main();
} catch (error) {
  process.stderr.write(`package: ${error.message}\n`);
  process.exitCode = 1;
}
