// What scripts/gpu-check runs on a machine with a GPU: results against the CPU and the reference, then throughput. Prints one table; exits 1 on a failure.
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync } from 'node:fs';
import { openDevice, type Device } from '../../lib/device.js';
import { measureInference, measureSemantic, measureTraining, type Timing } from '../../lib/evaluate/throughput.js';
import { createEncoder, listStudents, type Encoder, type Precision } from '../../lib/models/index.js';
import { bankLoss, bankUpdate } from '../../lib/semantic/index.js';
import { version } from '../../lib/version.js';
import { randomNormal } from '../fixtures/random.js';

const parts = (process.env['GPU_CHECK_PARTS'] ?? 'ops networks semantic bench').split(/\s+/);
const rows: Record<string, unknown>[] = [];
let failures = 0;

function report(part: string, name: string, value: string, good = true): void {
  if (!good) failures++;
  rows.push({ part, name, value, good });
  console.log(`${good ? '  ' : '! '}${part.padEnd(9)} ${name.padEnd(52)} ${value}`);
}

function relative(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [difference, size] = [0, 1e-30];
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    size += expected[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

function operations(): void {
  const program = process.env['GPU_CHECK_OPS'];
  if (program === undefined) return report('ops', 'cuda_ops', 'GPU_CHECK_OPS names no program: not run', false);
  const { status, stdout, stderr } = spawnSync(program, process.env['GPU_CHECK_SMALL'] ? ['small'] : [], { encoding: 'utf8' });
  const lines = `${stdout}${stderr}`.trim().split('\n');
  for (const line of lines.slice(0, -1)) report('ops', line, '', false);
  report('ops', 'every operation against its CPU twin', lines.at(-1) ?? '', status === 0);
}

/** One training step on both devices from the same start; gradients are compared as one long vector. */
async function step(encoder: Encoder, images: Float32Array, gradient: Float32Array): Promise<{ output: Float32Array; gradients: Record<string, Float32Array>; evaluation: Float32Array }> {
  const output = await encoder.forward(images, { training: true });
  const gradients = await encoder.backward(gradient);
  return { output, gradients, evaluation: await encoder.forward(images, { training: false }) };
}

async function networks(cpu: Device, cuda: Device): Promise<void> {
  const [batch, resolution, outputs] = [32, 64, 64];
  const images = randomNormal(batch * 3 * resolution ** 2, 1);
  const gradient = randomNormal(batch * outputs, 2);
  for (const name of listStudents()) {
    using reference = await createEncoder(name, { device: cpu, outputs, resolution, batch });
    const expected = await step(reference, images, gradient);
    const all = (gradients: Record<string, Float32Array>) => Object.keys(expected.gradients).flatMap((key) => [gradients[key]!]);
    for (const precision of ['float32', 'bfloat16'] as Precision[]) {
      using encoder = await createEncoder(name, { device: cuda, outputs, resolution, batch, precision });
      const found = await step(encoder, images, gradient);
      const [a, b] = [all(found.gradients), all(expected.gradients)];
      const error = Math.sqrt(a.reduce((sum, values, i) => sum + values.reduce((s, v, j) => s + (v - b[i]![j]!) ** 2, 0), 0) / b.reduce((sum, values) => sum + values.reduce((s, v) => s + v * v, 0), 0));
      const outputError = relative(found.output, expected.output);
      const evaluationError = relative(found.evaluation, expected.evaluation);
      // float32 differs by rounding, which ReLU6's kinks enlarge; bfloat16 gradients of a random network are only roughly those of float32
      const good = precision === 'float32' ? outputError < 1e-3 && evaluationError < 1e-4 && error < 3e-2 : evaluationError < 5e-2 && Number.isFinite(error);
      report('networks', `${name} ${precision}`, `output ${outputError.toExponential(1)}, gradients ${error.toExponential(1)}, evaluation ${evaluationError.toExponential(1)}`, good);
    }
  }
}

async function semantic(cuda: Device): Promise<void> {
  for (const [B, D, K] of [[5, 24, 7], [256, 1024, 1000], [64, 512, 5000]] as const) {
    const unit = (count: number, seed: number) => {
      const values = randomNormal(count * D, seed);
      for (let row = 0; row < count; row++) {
        const part = values.subarray(row * D, (row + 1) * D);
        const norm = Math.sqrt(part.reduce((sum, v) => sum + v * v, 0));
        part.forEach((v, i) => (part[i] = v / norm));
      }
      return values;
    };
    const [student, teacher, textual, visual] = [randomNormal(B * D, 1), randomNormal(B * D, 2), unit(K, 3), unit(K, 4)];
    const input = { student, teacher, textual, visual, dimension: D, studentTemperature: 0.2, teacherTemperature: 0.01, alpha: 0.5 };
    const [expected, found] = [await bankLoss(input, { device: 'js' }), await bankLoss(input, { device: cuda })];
    const error = Math.max(Math.abs(found.loss / expected.loss - 1), relative(found.gradient, expected.gradient));
    report('semantic', `bankLoss ${B} x ${D} x ${K}`, `relative error ${error.toExponential(1)}`, error < 2e-5);
    const update = { teacher, textual, visual, seen: new Uint8Array(K), dimension: D, momentum: 0.99 };
    const [a, b] = [await bankUpdate(update, { device: 'js' }), await bankUpdate(update, { device: cuda })];
    const same = a.assignment.every((category, i) => category === b.assignment[i]);
    report('semantic', `bankUpdate ${B} x ${D} x ${K}`, `relative error ${relative(b.visual, a.visual).toExponential(1)}, assignment ${same ? 'equal' : 'differs'}`, same && relative(b.visual, a.visual) < 2e-5);
  }
}

function timing(name: string, result: Timing): void {
  rows.push({ part: 'bench', name, ...result });
  console.log(`  bench     ${name.padEnd(52)} ${result.p50.toFixed(3)} ms (p20 ${result.p20.toFixed(3)}, p80 ${result.p80.toFixed(3)}), ${result.imagesPerSecond.toFixed(0)} images/s`);
}

async function throughput(cuda: Device): Promise<void> {
  for (const resolution of [224, 64])
    for (const name of ['resnet18', 'mobilenet_v2', 'mobilenet_v3_large', 'efficientnet_b0']) {
      using encoder = await createEncoder(name, { device: cuda, outputs: 1024, resolution, batch: 256, precision: 'bfloat16' });
      timing(`${name} ${resolution} px: forward, backward, SGD`, await measureTraining(encoder.compiled));
      timing(`${name} ${resolution} px: forward`, await measureInference(encoder.compiled));
    }
  for (const [batch, dimension, categories] of [[256, 1024, 1000], [2048, 512, 21841]] as const)
    timing(`semantic head ${batch} x ${dimension} x ${categories}, loss and update`, await measureSemantic(cuda, { batch, dimension, categories, bfloat16: true }));
}

const [cpu, cuda] = [await openDevice('cpu'), await openDevice('cuda')];
console.log(`lgdistill ${version}, ${cuda.info.name}, compute capability ${cuda.info.computeCapability}, build ${cuda.addon.buildInfo().buildId}`);
if (parts.includes('ops')) operations();
if (parts.includes('networks')) await networks(cpu, cuda);
if (parts.includes('semantic')) await semantic(cuda);
if (parts.includes('bench')) await throughput(cuda);
mkdirSync('bench/results', { recursive: true });
const machine = { card: cuda.info.name, driver: cuda.addon.cudaStatus().driver, version, commit: process.env['GPU_CHECK_COMMIT'] };
appendFileSync('bench/results/gpu-check.jsonl', rows.map((row) => `${JSON.stringify({ ...machine, ...row })}\n`).join(''));
console.log(`gpu-check: ${failures} failed`);
process.exitCode = failures > 0 ? 1 : 0;
