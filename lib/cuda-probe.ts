/**
 * Tries a CUDA build in a process of its own before this one relies on it: a driver, a device and a build that do not go together can end a process, and then
 * it is the child's. What was found is remembered, so that a machine pays once.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { LgdError } from './errors.js';
import type { BuildInfo, CudaStatus } from './native.js';

export interface ProbeOptions {
  /** The addon's file. */
  addon: string;
  build: BuildInfo;
  status: CudaStatus;
  /** Of the device. */
  index: number;
  /** Tries again, whatever is remembered. */
  again?: boolean;
  /** How long the child may take; the first start of a card without code of its own compiles kernels. Default two minutes. */
  timeoutMilliseconds?: number;
}

export interface ProbeResult {
  passed: boolean;
  /** What went wrong, or ''. */
  reason: string;
  /** When it was tried, ISO 8601. */
  when: string;
  /** Whether it was tried earlier than in this call. */
  remembered: boolean;
}

type Finding = Omit<ProbeResult, 'remembered'>;

const timeout = 120_000;
const failureLifetime = 3_600_000; // ms; a card that was busy or a driver that was mended gets another chance

// One loss and its gradient whose values are known in closed form: B = 1, D = 2, K = 2, all temperatures 1; student (0,1), teacher (1,0), texts (1,0) and (0,1).
const share = 1 / (1 + Math.E); // of the teacher's softmax on the second text
const expected = [Math.log(1 + Math.E) - share, -Math.tanh(0.5), 0];
const tolerance = 1e-3;

// As text, so that it is there in a bundle, too. It answers on a pipe of its own: drivers may print.
const child = `
const { writeSync } = require('node:fs');
const [path, index] = process.argv.slice(1);
const answer = (value) => { writeSync(3, JSON.stringify(value)); process.exit(0); };
(async () => {
  const addon = require(path);
  const device = addon.openDevice('cuda', Number(index), 1);
  const { loss, gradient } = await addon.bankLoss(device, {
    student: Float32Array.of(0, 1), teacher: Float32Array.of(1, 0), textual: Float32Array.of(1, 0, 0, 1),
    dimension: 2, alpha: 0, studentTemperature: 1, teacherTemperature: 1,
  });
  answer({ values: [loss, ...gradient] });
})().catch((error) => answer({ error: String(error && error.message || error) }));
`;

const asked = new Map<string, Promise<Finding>>();

/**
 * Whether a CUDA device works with this addon: from this process, else from the cache folder, else by trying it. $LGDISTILL_PROBE: `off` takes it for granted,
 * `again` tries anew; a failure is forgotten after an hour.
 * @throws LgdError BAD_OPTION for another value of $LGDISTILL_PROBE
 */
export async function probeCuda(options: ProbeOptions): Promise<ProbeResult> {
  const mode = process.env['LGDISTILL_PROBE'] ?? '';
  if (!['', 'off', 'again'].includes(mode)) throw new LgdError('BAD_OPTION', 'not a way to probe.', { option: '$LGDISTILL_PROBE', found: mode, allowed: 'off, again' });
  if (mode === 'off') return { passed: true, reason: '', when: '', remembered: true };
  const key = keyOf(options);
  const known = asked.get(key);
  if (known !== undefined && !options.again) return { ...(await known), remembered: true };
  const kept = options.again || mode === 'again' ? undefined : recall(key);
  if (kept !== undefined) return { ...kept, remembered: true };
  const trying = attempt(options).then((finding) => remember(key, finding));
  asked.set(key, trying);
  return { ...(await trying), remembered: false };
}

/** A failed trial in words, to follow "no CUDA device: ". */
export function describeFailure({ reason, when }: ProbeResult): string {
  return `cuda failed a trial in a process of its own (${when}; LGDISTILL_PROBE=again tries anew): ${reason}`;
}

/** Where findings are kept: $XDG_CACHE_HOME/lgdistill/cuda-probe or ~/.cache/lgdistill/cuda-probe. */
export function probeFolder(): string {
  return join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'lgdistill', 'cuda-probe');
}

/** Changes with the build, its file, the driver and the device. */
function keyOf({ addon, build, status, index }: ProbeOptions): string {
  const { size, mtimeMs } = statSync(addon);
  const device = status.devices.find((one) => one.index === index);
  return createHash('sha256').update(JSON.stringify([build.version, build.buildId, addon, size, mtimeMs, status.driver, index, device?.name, device?.computeCapability])).digest('hex').slice(0, 32);
}

function recall(key: string): Finding | undefined {
  try {
    const { passed, reason, when } = JSON.parse(readFileSync(join(probeFolder(), `${key}.json`), 'utf8')) as Finding;
    if (typeof passed !== 'boolean' || typeof reason !== 'string') return undefined;
    const age = Date.now() - Date.parse(when);
    return passed || (age >= 0 && age < failureLifetime) ? { passed, reason, when } : undefined;
  } catch {
    return undefined; // nothing there, or no file of ours
  }
}

/** Keeps a finding for later processes; where the folder cannot be written, they try again. */
function remember(key: string, finding: Finding): Finding {
  const file = join(probeFolder(), `${key}.json`);
  try {
    mkdirSync(probeFolder(), { recursive: true });
    writeFileSync(`${file}.${process.pid}`, JSON.stringify(finding));
    renameSync(`${file}.${process.pid}`, file);
  } catch {
    // no place to remember it; nothing depends on that
  }
  return finding;
}

async function attempt({ addon, index, timeoutMilliseconds = timeout }: ProbeOptions): Promise<Finding> {
  const reason = await new Promise<string>((resolve) => {
    const started = spawn(process.execPath, ['-e', child, addon, String(index)], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1' },
    });
    let text = '';
    let late = false;
    const timer = setTimeout(() => (late = true, started.kill('SIGKILL')), timeoutMilliseconds);
    started.stdio[3]!.on('data', (part: Buffer) => (text += part.toString()));
    started.on('error', (error) => resolve(`the trial process did not start: ${error.message}`));
    started.on('close', (code, signal) => {
      clearTimeout(timer);
      if (late) resolve(`it gave no answer within ${timeoutMilliseconds / 1000} s`);
      else resolve(judge(text) ?? (signal === null ? `the trial process ended with ${code} and no answer` : `it crashed with ${signal}`));
    });
  });
  return { passed: reason === '', reason, when: new Date().toISOString() };
}

/** '' for the right answer, what is wrong with another, undefined for none. */
function judge(text: string): string | undefined {
  if (text === '') return undefined;
  let answer: { values?: number[]; error?: string };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    return 'it broke off in the middle of its answer';
  }
  const { values, error } = answer;
  if (values === undefined) return error ?? 'it gave no values';
  const right = values.length === expected.length && values.every((value, i) => Math.abs(value - expected[i]!) <= tolerance);
  return right ? '' : `it computes wrong numbers: ${values.join(', ')} in the place of ${expected.map((value) => value.toFixed(6)).join(', ')}`;
}
