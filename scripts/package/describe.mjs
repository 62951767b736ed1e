// README and NOTICE of the addon's package.

const runtime = "The CUDA runtime is linked in, under NVIDIA's terms for its redistributable parts.";

/** @param build the addon's buildInfo() @param glibc the oldest that it loads with */
export function describeAddon({ version, buildId, compiler, cuda, cudaRuntime, cudaArchitectures }, glibc) {
  const release = `${Math.floor(cudaRuntime / 1000)}.${Math.floor((cudaRuntime % 1000) / 10)}`;
  return `# @lgdistill/linux-x64

The native addon of [lgdistill](https://www.npmjs.com/package/lgdistill) for Linux on x86-64. lgdistill installs it by itself; it is of no use alone.

- Version ${version}, build "${buildId}", ${compiler}.
- Needs glibc ${glibc} or later. Systems with musl (Alpine) cannot load it.
- CPU: baseline x86-64, AVX2 and AVX-512 code, chosen at run time.
${
  cuda
    ? `- CUDA ${release}: code for compute capability ${cudaArchitectures.map((one) => one.replace(/^(\d+)(\d)(a?)$/u, '$1.$2$3')).join(', ')}, and PTX for later cards. NVIDIA's driver is needed for a GPU, nothing else of CUDA; without a driver the CPU is used.
  ${runtime}`
    : '- No CUDA.'
}

\`npx lgdistill doctor\` says what is used, and why.
`;
}

/**
 * @param notice the checkout's @param licence of node-addon-api, whose headers are compiled in @param build the addon's
 *   buildInfo()
 */
export function addonNotice(notice, licence, { cuda }) {
  return `${notice}
lgdistill.node has code of node-addon-api's headers in it, under this licence:

${licence.trim()}
${cuda ? `\n${runtime}\n` : ''}`;
}
