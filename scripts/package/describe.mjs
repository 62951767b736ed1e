// The README of the addon's package.

/** @param build the addon's buildInfo() @param glibc the oldest that it loads with */
export function describeAddon({ version, buildId, compiler, cuda, cudaRuntime, cudaArchitectures }, glibc) {
  const release = `${Math.floor(cudaRuntime / 1000)}.${Math.floor((cudaRuntime % 1000) / 10)}`;
  return `# @lgdistill/linux-x64

The native addon of [lgdistill](https://www.npmjs.com/package/lgdistill) for Linux on x86-64. lgdistill installs it by itself; it is of no use alone.

- Version ${version}, build "${buildId}", ${compiler}.
- Needs glibc ${glibc} or later. Systems with musl (Alpine) cannot load it.
- CPU: baseline x86-64, AVX2 and AVX-512 code, chosen at run time.
${cuda ? `- CUDA ${release}: code for compute capability ${cudaArchitectures.map((one) => one.replace(/^(\d+)(\d)(a?)$/u, '$1.$2$3')).join(', ')}, and PTX for later cards. NVIDIA's driver is needed for a GPU, nothing else of CUDA; without a driver the CPU is used.
  The CUDA runtime is linked in, under NVIDIA's terms for its redistributable parts.` : '- No CUDA.'}

\`npx lgdistill doctor\` says what is used, and why.
`;
}
