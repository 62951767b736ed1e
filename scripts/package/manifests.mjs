// The package.json files of the packages that are published, made from the checkout's.

export const addonName = '@lgdistill/linux-x64';

const kept = [
  'name',
  'version',
  'description',
  'keywords',
  'license',
  'repository',
  'homepage',
  'bugs',
  'type',
  'engines',
  'os',
  'main',
  'module',
  'types',
  'exports',
  'bin',
];

// Its sharp has a script that fetches a binary from elsewhere. Where that fails, npm leaves an optional package out
// instead of failing the whole installation.
const optional = ['@xenova/transformers'];

/** Of lgdistill: no scripts, nothing that is for building. The addon's version is this one exactly. */
export function mainManifest(checkout) {
  const dependencies = Object.entries(checkout.dependencies);
  return {
    ...pick(checkout),
    files: ['dist', 'docs', 'examples', 'CHANGELOG.md', 'NOTICE'],
    dependencies: Object.fromEntries(dependencies.filter(([name]) => !optional.includes(name))),
    optionalDependencies: {
      [addonName]: checkout.version,
      ...checkout.optionalDependencies,
      ...Object.fromEntries(dependencies.filter(([name]) => optional.includes(name))),
    },
  };
}

/** Of the addon's package. `lgdistill` says what was built: people and tools can read it without loading anything. */
export function addonManifest(checkout, build, glibc) {
  const { version, license, engines } = checkout;
  return {
    name: addonName,
    version,
    description: `lgdistill's native addon for Linux on x86-64: CPU${build.cuda ? ' and CUDA' : ''}`,
    license,
    engines,
    os: ['linux'],
    cpu: ['x64'],
    libc: ['glibc'],
    main: './lgdistill.node',
    exports: { '.': './lgdistill.node', './package.json': './package.json' },
    files: ['lgdistill.node', 'NOTICE'],
    preferUnplugged: true,
    lgdistill: {
      glibc,
      buildId: build.buildId,
      compiler: build.compiler,
      cudaRuntime: build.cudaRuntime,
      cudaArchitectures: build.cudaArchitectures,
    },
  };
}

function pick(manifest) {
  return Object.fromEntries(kept.filter((key) => manifest[key] !== undefined).map((key) => [key, manifest[key]]));
}
