/**
 * Tries a CUDA build in a process of its own before this one relies on it: a driver, a device and a build that do not go together can end a process, and then
 * it is the child's. So are products by warpgroups, where a device has them: one on which they fail, hang or disagree goes on without. What was found is
 * remembered, so that a machine pays once.
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
  /** Of `wgmma`, on devices that have it: whether it gave what `mma.sync` gives, and else what went wrong. Undefined: there was nothing to try. */
  wgmma?: ProbeTrial | undefined;
  /** When it was tried, ISO 8601. */
  when: string;
  /** Whether it was tried earlier than in this call. */
  remembered: boolean;
}

/** How one trial ended. */
export interface ProbeTrial {
  passed: boolean;
  /** What went wrong, or ''. */
  reason: string;
}

type Finding = Omit<ProbeResult, 'remembered'>;
/** '' for the right values, else what is wrong with them. */
type Judge = (values: readonly (number | null)[]) => string;

const timeout = 120_000;
const failureLifetime = 3_600_000; // ms; a card that was busy or a driver that was mended gets another chance

// One loss and its gradient whose values are known in closed form: B = 1, D = 2, K = 2, all temperatures 1; student (0,1), teacher (1,0), texts (1,0) and (0,1).
const share = 1 / (1 + Math.E); // of the teacher's softmax on the second text
const expected = [Math.log(1 + Math.E) - share, -Math.tanh(0.5), 0];
const tolerance = 1e-3;
const roundingOfBfloat16 = 2 ** -8; // relative; results of both kinds of products are rounded to it

// As text, so that it is there in a bundle, too. It answers on a pipe of its own: drivers may print.
const childOf = (values: string): string => `
const { writeSync } = require('node:fs');
const [path, index] = process.argv.slice(1);
const answer = (value) => { writeSync(3, JSON.stringify(value)); process.exit(0); };
(async () => {
  const addon = require(path);
  const device = addon.openDevice('cuda', Number(index), 1);
  ${values}
})().catch((error) => answer({ error: String(error && error.message || error) }));
`;
const lossChild = childOf(`const { loss, gradient } = await addon.bankLoss(device, {
    student: Float32Array.of(0, 1), teacher: Float32Array.of(1, 0), textual: Float32Array.of(1, 0, 0, 1),
    dimension: 2, alpha: 0, studentTemperature: 1, teacherTemperature: 1,
  });
  answer({ values: [loss, ...gradient] });`);
const wgmmaChild = childOf('answer({ values: [await addon.wgmmaDifference(device)] });');

const asked = new Map<string, Promise<Finding>>();

/**
 * Whether a CUDA device works with this addon, and whether products by warpgroups do: from this process, else from the cache folder, else by trying it.
 * $LGDISTILL_PROBE: `off` takes both for granted, `again` tries anew; a failure is forgotten after an hour. $LGDISTILL_WGMMA=0 or 1 settles the second.
 * @throws LgdError BAD_OPTION for another value of either
 */
export async function probeCuda(options: ProbeOptions): Promise<ProbeResult> {
  const mode = process.env['LGDISTILL_PROBE'] ?? '';
  if (!['', 'off', 'again'].includes(mode)) throw new LgdError('BAD_OPTION', 'not a way to probe.', { option: '$LGDISTILL_PROBE', found: mode, allowed: 'off, again' });
  const products = process.env['LGDISTILL_WGMMA'] ?? '';
  if (!['', '0', '1'].includes(products)) throw new LgdError('BAD_OPTION', 'not a way to form products.', { option: '$LGDISTILL_WGMMA', found: products, allowed: '0, 1' });
  if (mode === 'off') return { passed: true, reason: '', when: '', remembered: true };
  const key = keyOf(options);
  const known = asked.get(key);
  if (known !== undefined && !options.again) return { ...(await known), remembered: true };
  const kept = options.again || mode === 'again' ? undefined : recall(key, needsWgmma(options));
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

const deviceOf = ({ status, index }: ProbeOptions): CudaStatus['devices'][number] | undefined => status.devices.find((one) => one.index === index);

/** Whether products by warpgroups are to be tried: the device has them, and nobody has decided. */
const needsWgmma = (options: ProbeOptions): boolean => deviceOf(options)?.wgmma === true && (process.env['LGDISTILL_WGMMA'] ?? '') === '';

/** Changes with the build, its file, the driver, the device and what is to be tried. */
function keyOf(options: ProbeOptions): string {
  const { addon, build, status, index } = options;
  const { size, mtimeMs } = statSync(addon);
  const device = deviceOf(options);
  return createHash('sha256').update(JSON.stringify([build.version, build.buildId, addon, size, mtimeMs, status.driver, index, device?.name, device?.computeCapability, needsWgmma(options)])).digest('hex').slice(0, 32);
}

const isTrial = (value: unknown): value is ProbeTrial => typeof (value as ProbeTrial | undefined)?.passed === 'boolean' && typeof (value as ProbeTrial).reason === 'string';

function recall(key: string, withWgmma: boolean): Finding | undefined {
  try {
    const { passed, reason, wgmma, when } = JSON.parse(readFileSync(join(probeFolder(), `${key}.json`), 'utf8')) as Finding;
    if (!isTrial({ passed, reason }) || (passed && withWgmma && !isTrial(wgmma))) return undefined;
    const age = Date.now() - Date.parse(when);
    const allPassed = passed && wgmma?.passed !== false;
    return allPassed || (age >= 0 && age < failureLifetime) ? { passed, reason, wgmma, when } : undefined;
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

async function attempt(options: ProbeOptions): Promise<Finding> {
  const when = new Date().toISOString();
  const loss = await tryIn(lossChild, options, judgeLoss);
  const wgmma = loss.passed && needsWgmma(options) ? await tryIn(wgmmaChild, options, judgeWgmma) : undefined;
  return { ...loss, wgmma, when };
}

async function tryIn(child: string, { addon, index, timeoutMilliseconds = timeout }: ProbeOptions, judge: Judge): Promise<ProbeTrial> {
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
      else resolve(judgeText(text, judge) ?? (signal === null ? `the trial process ended with ${code} and no answer` : `it crashed with ${signal}`));
    });
  });
  return { passed: reason === '', reason };
}

/** '' for the right answer, what is wrong with another, undefined for none. */
function judgeText(text: string, judge: Judge): string | undefined {
  if (text === '') return undefined;
  let answer: { values?: (number | null)[]; error?: string };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    return 'it broke off in the middle of its answer';
  }
  return answer.values === undefined ? (answer.error ?? 'it gave no values') : judge(answer.values);
}

function judgeLoss(values: readonly (number | null)[]): string {
  const right = values.length === expected.length && values.every((value, i) => value !== null && Math.abs(value - expected[i]!) <= tolerance);
  return right ? '' : `it computes wrong numbers: ${values.join(', ')} in the place of ${expected.map((value) => value.toFixed(6)).join(', ')}`;
}

/** NaN and infinity come as null. */
function judgeWgmma([difference]: readonly (number | null)[]): string {
  const right = typeof difference === 'number' && difference <= roundingOfBfloat16;
  return right ? '' : `its products differ from those of mma.sync by ${difference ?? 'no number'} of their size`;
}
