/**
 * Trials of a CUDA build in a process of its own: a driver, a device and a build that do not go together can end a
 * process, and then it is the child's.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createRequire, isBuiltin } from 'node:module';
import type { CudaStatus } from './native.js';

/** How one trial ended. */
export interface ProbeTrial {
  passed: boolean;
  /** What went wrong, or ''. */
  reason: string;
  /**
   * It went wrong by what says nothing of addon, driver or card, and may be over the next moment: a GPU whose memory is
   * full, or that another process has to itself. Such a failure is not remembered.
   */
  transient?: boolean;
}

/** A trial that was timed, too. */
export interface TimedTrial extends ProbeTrial {
  /** How long it took, in the time of what it is compared with; undefined where it failed. */
  time?: number | undefined;
}

/** What a trial is tried with. */
interface TrialOptions {
  /** The addon's file. */
  addon: string;
  /** Of the device. */
  index: number;
  /**
   * How long the child may take; the first start of a card without code of its own compiles kernels. Default two
   * minutes.
   */
  timeoutMilliseconds?: number;
}

/** '' for the right values, else what is wrong with them. NaN and infinity come as null. */
type Judge = (values: readonly (number | null)[]) => string;

const timeout = 120_000;
const statusTimeout = 60_000; // starting the driver of many GPUs that nothing keeps awake takes some ten seconds
// One loss and its gradient whose values are known in closed form: B = 1, D = 2, K = 2, all temperatures 1; student
// (0,1), teacher (1,0), texts (1,0) and (0,1).
const share = 1 / (1 + Math.E); // of the teacher's softmax on the second text
const expected = [Math.log(1 + Math.E) - share, -Math.tanh(0.5), 0];
const tolerance = 1e-3;
// What a full or busy GPU gives to whoever comes; the last four are those of a service beside the driver that is full,
// or not ready yet.
const transientErrors =
  /cudaError(?:MemoryAllocation|DevicesUnavailable|SystemNotReady|MpsServerNotReady|MpsMaxClientsReached|MpsMaxConnectionsReached)\b/u;
// a terminal, an operator, the kernel where memory runs out
const signalsFromOutside: ReadonlySet<string> = new Set(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGKILL']);
const roundingOfBfloat16 = 2 ** -8; // relative; results of both kinds of products are rounded to it

// As text, so that it is there in a bundle, too. It answers on a pipe of its own: drivers may print.
const childOf = (values: string, features = 'undefined'): string => `
const { writeSync } = require('node:fs');
const [path, index] = process.argv.slice(1);
const answer = (value) => { writeSync(3, JSON.stringify(value)); process.exit(0); };
(async () => {
  const addon = require(path);
  const device = addon.openDevice('cuda', Number(index), 1, ${features});
  ${values}
})().catch((error) => answer({ error: String(error && error.message || error), code: error && error.code }));
`;
const statusChild = `
const { writeSync } = require('node:fs');
writeSync(3, JSON.stringify({ status: require(process.argv[1]).cudaStatus() }));
process.exit(0);
`;
const lossChild = childOf(`const { loss, gradient } = await addon.bankLoss(device, {
    student: Float32Array.of(0, 1), teacher: Float32Array.of(1, 0), textual: Float32Array.of(1, 0, 0, 1),
    dimension: 2, alpha: 0, studentTemperature: 1, teacherTemperature: 1,
  });
  answer({ values: [loss, ...gradient] });`);
const wgmmaChild = childOf('answer({ values: [await addon.wgmmaDifference(device)] });');
// one trial at a time
const launchChild = childOf('answer({ values: [await addon.programmaticLaunchTime(device)] });', '{ wgmma: false }');

/** Whether the loss of the banks and its gradient are what they are known to be. */
export async function tryLoss(options: TrialOptions): Promise<ProbeTrial> {
  return tryIn(lossChild, options, (values) => {
    const right =
      values.length === expected.length &&
      values.every((value, i) => value !== null && Math.abs(value - expected[i]!) <= tolerance);
    return right
      ? ''
      : `it computes wrong numbers: ${values.join(', ')} in the place of ${expected.map((value) => value.toFixed(6)).join(', ')}`;
  });
}

/** Whether products by warpgroups are those of `mma.sync`. */
export async function tryWgmma(options: TrialOptions): Promise<ProbeTrial> {
  return tryIn(wgmmaChild, options, ([difference]) =>
    typeof difference === 'number' && difference <= roundingOfBfloat16
      ? ''
      : `its products differ from those of mma.sync by ${difference ?? 'no number'} of their size`,
  );
}

/** Whether programmatic launches give what serialized ones do, and in which part of their time. */
export async function tryLaunches(options: TrialOptions): Promise<TimedTrial> {
  let time: number | undefined;
  const trial = await tryIn(launchChild, options, ([found]) => {
    if (typeof found !== 'number' || !(found > 0)) return `it gives no time but ${found ?? 'no number'}`;
    time = found;
    return '';
  });
  return { ...trial, time };
}

/** What the driver says. @param addon the addon's file @returns why there was no answer, where there was none */
export async function askStatus(
  addon: string,
  timeoutMilliseconds = statusTimeout,
): Promise<{ status: CudaStatus } | { reason: string }> {
  const { text, end } = await runChild(statusChild, [addon], timeoutMilliseconds);
  try {
    return JSON.parse(text) as { status: CudaStatus };
  } catch {
    return { reason: end.reason };
  }
}

async function tryIn(
  child: string,
  { addon, index, timeoutMilliseconds = timeout }: TrialOptions,
  judge: Judge,
): Promise<ProbeTrial> {
  const { text, end } = await runChild(child, [addon, String(index)], timeoutMilliseconds);
  const { reason, transient } = (end.whole ? judgeText(text, judge) : undefined) ?? end;
  return { passed: reason === '', reason, ...(transient === true && { transient }) };
}

/** Whether this process is a program with Node in it (a single executable application): it starts none but itself. */
function isOneExecutable(): boolean {
  const name = 'node:sea';
  return isBuiltin(name) && (createRequire(import.meta.url)(name) as { isSea(): boolean }).isSea();
}

/** How a child ended, for where it gave no answer; `whole` if by itself, so that its answer counts. */
interface ChildEnd {
  reason: string;
  transient?: boolean;
  whole?: boolean;
}

/**
 * Runs a child to its end, or until its time is over: one that hangs in the driver may not end even when it is killed.
 */
async function runChild(
  child: string,
  parameters: readonly string[],
  timeoutMilliseconds: number,
): Promise<{ text: string; end: ChildEnd }> {
  if (isOneExecutable())
    return {
      text: '',
      end: {
        reason: 'the trial process did not start: this program is one executable, which starts itself alone',
        transient: true,
      },
    };
  return new Promise((resolve) => {
    let text = '';
    const finish = (end: ChildEnd): void => {
      clearTimeout(timer);
      resolve({ text, end });
    };
    const timer = setTimeout(() => {
      started?.kill('SIGKILL');
      started?.stdio[3]!.destroy();
      started?.unref();
      finish({ reason: `it gave no answer within ${timeoutMilliseconds / 1000} s` });
    }, timeoutMilliseconds);
    const failToStart = (error: Error): void =>
      finish({ reason: `the trial process did not start: ${error.message}`, transient: true });
    let started: ChildProcess | undefined;
    try {
      started = spawn(process.execPath, ['-e', child, ...parameters], {
        stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
        // Another tool's executable, and an Electron app that may not run as Node, run their own program instead, which
        // would start itself in turn, and so on: a value that $LGDISTILL_PROBE may not have ends it (checkSwitches).
        env: { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1', LGDISTILL_PROBE: 'child' },
      });
    } catch (error) {
      // Node's permission model
      return failToStart(error as Error);
    }
    started.stdio[3]!.on('data', (part: Buffer) => (text += part.toString()));
    started.on('error', failToStart);
    started.on('close', (code, signal) => {
      if (signal !== null && signalsFromOutside.has(signal))
        finish({ reason: `the trial process was ended by ${signal}`, transient: true });
      else
        finish({
          reason: signal === null ? `the trial process ended with ${code} and no answer` : `it crashed with ${signal}`,
          whole: true,
        });
    });
  });
}

/** The reason '' for the right answer, what is wrong with another, undefined for none. */
function judgeText(text: string, judge: Judge): { reason: string; transient?: boolean } | undefined {
  if (text === '') return undefined;
  let answer: { values?: (number | null)[]; error?: string; code?: string };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    return { reason: 'it broke off in the middle of its answer' };
  }
  const { values, error = 'it gave no values', code } = answer;
  return values === undefined
    ? { reason: error, transient: code === 'OUT_OF_MEMORY' || transientErrors.test(error) }
    : { reason: judge(values) };
}
