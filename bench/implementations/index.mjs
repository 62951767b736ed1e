// What is measured. Each implementation runs in a process of its own and opens itself there:
//   open(options) -> { detail, versions, bankLoss(input), bankUpdate(input), trainEncoder?(spec), close() }   or throws
//     Absent with the reason
// bankLoss and bankUpdate prepare one call, { run, result, dispose }: `run` is what is timed, `result` reads what the
// check compares. Banks are brought into the form that the implementation likes best before the clock starts;
// embeddings, gradient and assignment cross the border while it runs.

/** Thrown where an implementation cannot run on this machine; the message is printed and kept. */
export class Absent extends Error {}

/**
 * kind: 'reference' | 'ours' | 'plain JavaScript' | 'WebAssembly' | 'WebGPU' | 'native'. `own`: needs the packages of
 * bench/package.json. The first is the reference that the others are checked against; it runs at every size, however
 * long it takes.
 */
export const implementations = [
  { name: 'js', title: 'lgdistill, TypeScript', kind: 'reference', module: './js.mjs' },
  { name: 'native', title: 'lgdistill, native CPU', kind: 'ours', module: './native.mjs', options: { device: 'cpu' } },
  {
    name: 'native-1',
    title: 'lgdistill, native CPU',
    kind: 'ours',
    module: './native.mjs',
    options: { device: 'cpu', threads: 1 },
  },
  {
    name: 'native-resident',
    title: 'lgdistill, native CPU, banks resident',
    kind: 'ours',
    module: './native-resident.mjs',
    options: { device: 'cpu' },
  },
  { name: 'cuda', title: 'lgdistill, CUDA', kind: 'ours', module: './native.mjs', options: { device: 'cuda' } },
  {
    name: 'cuda-resident',
    title: 'lgdistill, CUDA, banks resident',
    kind: 'ours',
    module: './native-resident.mjs',
    options: { device: 'cuda' },
  },
  {
    name: 'ml-matrix',
    title: 'ml-matrix',
    kind: 'plain JavaScript',
    module: './matrix.mjs',
    options: { library: 'ml-matrix' },
    own: true,
  },
  {
    name: 'stdlib',
    title: '@stdlib/blas-base-sgemm',
    kind: 'plain JavaScript',
    module: './matrix.mjs',
    options: { library: 'stdlib' },
    own: true,
  },
  {
    name: 'ndarray-gemm',
    title: 'ndarray-gemm',
    kind: 'plain JavaScript',
    module: './matrix.mjs',
    options: { library: 'ndarray-gemm' },
    own: true,
  },
  {
    name: 'tfjs-cpu',
    title: 'tfjs, cpu',
    kind: 'plain JavaScript',
    module: './tfjs.mjs',
    options: { backend: 'cpu' },
    own: true,
  },
  {
    name: 'numpy-ts',
    title: 'numpy-ts, WASM SIMD',
    kind: 'WebAssembly',
    module: './matrix.mjs',
    options: { library: 'numpy-ts' },
    own: true,
  },
  {
    name: 'tfjs-wasm-1',
    title: 'tfjs, WASM SIMD',
    kind: 'WebAssembly',
    module: './tfjs.mjs',
    options: { backend: 'wasm', threads: 1 },
    own: true,
  },
  {
    name: 'tfjs-wasm',
    title: 'tfjs, WASM SIMD and threads',
    kind: 'WebAssembly',
    module: './tfjs.mjs',
    options: { backend: 'wasm' },
    own: true,
  },
  {
    name: 'tfjs-webgpu',
    title: 'tfjs, WebGPU',
    kind: 'WebGPU',
    module: './tfjs.mjs',
    options: { backend: 'webgpu' },
    own: true,
  },
  {
    name: 'sgemm-1',
    title: 'OpenBLAS sgemm, the products alone',
    kind: 'native',
    module: './sgemm.mjs',
    options: { threads: 1 },
  },
  { name: 'sgemm', title: 'OpenBLAS sgemm, the products alone', kind: 'native', module: './sgemm.mjs' },
];

/**
 * Multiply-adds of the products that each operation needs: scores of student and teacher for two banks and two gradient
 * products; one score product.
 */
export const multiplyAdds = { bankLoss: ({ B, D, K }) => 6 * B * D * K, bankUpdate: ({ B, D, K }) => B * D * K };
