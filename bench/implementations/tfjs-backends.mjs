// Opens one backend of tfjs in Node, with everything switched on that its packages contain.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Absent } from './index.mjs';

const require = createRequire(import.meta.url);

// that many workers the threaded module starts with; a thread beyond them would wait for one for ever
const mostWasmThreads = 8;

/** @returns {Promise<{ tf: object, detail: string, threads: number | undefined }>} */
export async function openBackend(backend, threads = Math.min(availableParallelism(), mostWasmThreads)) {
  return { cpu: openCpu, wasm: openWasm, webgpu: openWebGpu }[backend](threads);
}

async function openCpu() {
  const tf = require('@tensorflow/tfjs');
  await tf.setBackend('cpu');
  return { tf, detail: 'plain JavaScript, float32, one thread', threads: 1 };
}

async function openWasm(threads) {
  const restore = threads > 1 ? allowThreads() : () => {};
  try {
    const tf = require('@tensorflow/tfjs');
    const wasm = require('@tensorflow/tfjs-backend-wasm');
    if (threads > 1) {
      tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', true); // its own test says no in Node without looking
      wasm.setThreadsCount(threads);
    }
    await tf.setBackend('wasm');
    const flag = async (name) => ((await tf.env().getAsync(name)) ? 'on' : 'off');
    const detail = `SIMD ${await flag('WASM_HAS_SIMD_SUPPORT')}, threads ${await flag('WASM_HAS_MULTITHREAD_SUPPORT')}: ${wasm.getThreadsCount()}`;
    if (threads > 1 && wasm.getThreadsCount() === 1) throw new Error(`asked for ${threads} threads; got ${detail}`);
    return { tf, detail, threads: wasm.getThreadsCount() };
  } finally {
    restore();
  }
}

/**
 * tfjs 4.22 carries a threaded module and does not use it in Node (github.com/tensorflow/tfjs/issues/3830). Three
 * things stand in the way while the backend starts: its workers' script and main module are Blobs with URLs, which
 * Node's Worker and the workers' own importScripts, a file read, cannot open: they become files here, the main module
 * the same one from the package; and it takes half the logical cores: it is told of twice as many.
 * @returns puts everything back
 */
function allowThreads() {
  const os = require('node:os');
  const saved = {
    Blob: globalThis.Blob,
    createObjectURL: URL.createObjectURL,
    revokeObjectURL: URL.revokeObjectURL,
    cpus: os.cpus,
  };
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-bench-'));
  const mainScript = join(
    dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json')),
    'wasm-out/tfjs-backend-wasm-threaded-simd.js',
  );
  globalThis.Blob = function FileBlob(parts) {
    const text = parts.join('');
    if (text.startsWith('var WasmBackendModuleThreadedSimd')) return { path: mainScript };
    const path = join(folder, 'worker.js');
    writeFileSync(path, `URL.createObjectURL = ({ path }) => path; URL.revokeObjectURL = () => {};\n${text}`);
    return { path };
  };
  URL.createObjectURL = ({ path }) => path;
  URL.revokeObjectURL = () => {};
  os.cpus = () => [...saved.cpus(), ...saved.cpus()];
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return () => {
    globalThis.Blob = saved.Blob;
    URL.createObjectURL = saved.createObjectURL;
    URL.revokeObjectURL = saved.revokeObjectURL;
    os.cpus = saved.cpus;
  };
}

async function openWebGpu() {
  const { create, globals } = await import('webgpu');
  Object.assign(globalThis, globals);
  const gpu = create([]);
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Absent('WebGPU finds no adapter on this machine');
  Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true });
  const tf = require('@tensorflow/tfjs');
  require('@tensorflow/tfjs-backend-webgpu');
  await tf.setBackend('webgpu');
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  return {
    tf,
    detail: [description || device, vendor, architecture, isFallbackAdapter && 'computed on the CPU']
      .filter(Boolean)
      .join(', '),
    threads: undefined,
  };
}
