/**
 * Tries a CUDA build in a process of its own before this one relies on it. So are products by warpgroups and
 * programmatic launches, where a device has them: one on which they fail, hang or disagree goes on without. What was
 * found is remembered, so that a machine pays once.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cacheFolder } from '../files/cache-folder.js';
import { uniqueMark } from '../files/temporary-name.js';
import { checkSwitches } from '../switches.js';
import { askStatus, tryLaunches, tryLoss, tryWgmma, type ProbeTrial, type TimedTrial } from './cuda-probe-child.js';
import type { BuildInfo, CudaStatus, NativeAddon } from './native.js';

export interface ProbeOptions {
  /** The addon's file. */
  addon: string;
  build: BuildInfo;
  status: CudaStatus;
  /** Of the device. */
  index: number;
  /** Tries again, whatever is remembered. */
  again?: boolean;
  /**
   * How long the child may take; the first start of a card without code of its own compiles kernels. Default two
   * minutes.
   */
  timeoutMilliseconds?: number;
}

export interface ProbeResult extends ProbeTrial {
  /**
   * Of `wgmma`, on devices that have it: whether it gave what `mma.sync` gives, and else what went wrong. Undefined:
   * there was nothing to try.
   */
  wgmma?: ProbeTrial | undefined;
  /**
   * Of programmatic launches, on devices that have them: whether they gave what serialized ones give, and in which part
   * of their time. Undefined: there was nothing to try.
   */
  programmaticLaunches?: TimedTrial | undefined;
  /** When it was tried, ISO 8601. */
  when: string;
  /** Whether it was tried earlier than in this call. */
  remembered: boolean;
}

type Finding = Omit<ProbeResult, 'remembered'>;
const failureLifetime = 3_600_000; // ms; a driver that was mended gets another chance

// By the names of CUDA's errors, which end its messages. The first that fits holds.
const mends: readonly (readonly [pattern: RegExp, mend: string])[] = [
  [
    /\bthis program is one executable\b/u,
    'Check the GPU once by `lgdistill doctor` under Node; LGDISTILL_PROBE=off then takes it for granted',
  ],
  [
    /\bthe trial process did not start\b/u,
    'Let this process start others (Node with --permission needs --allow-child-process too); LGDISTILL_PROBE=off takes the device for granted',
  ],
  [
    /\bcudaErrorNoDevice\b/u,
    'Check that nvidia-smi lists a GPU (one in MIG mode needs an instance), that CUDA_VISIBLE_DEVICES does not hide it, and that a container was given it (docker run --gpus all)',
  ],
  [
    /\bcudaErrorSystemNotReady\b/u,
    'Start what the GPUs wait for; where NVSwitch connects them: systemctl start nvidia-fabricmanager',
  ],
  [
    /\bcudaErrorSystemDriverMismatch\b/u,
    "Restart the machine: the driver's libraries were updated, its kernel module was not",
  ],
  [
    /\bcudaErrorCompatNotSupportedOnDevice\b/u,
    'Take the folder of cuda-compat out of LD_LIBRARY_PATH: this card runs only with the libraries of its own driver',
  ],
  [
    /\bcudaErrorStubLibrary\b/u,
    "Take the folder of the toolkit's stubs out of LD_LIBRARY_PATH: its libcuda.so.1 is no driver",
  ],
  [
    /\bcudaError(?:NotPermitted|OperatingSystem|Unknown|InitializationError)\b|the NVIDIA driver names no devices/u,
    'Check that this user may read and write /dev/nvidia* and that nvidia-smi works; then look for driver errors in dmesg (Xid), and restart the machine',
  ],
  [
    /\bcudaErrorDevicesUnavailable\b/u,
    'Another process has the GPU to itself, or its compute mode lets nobody compute: see nvidia-smi, and nvidia-smi -q -d COMPUTE',
  ],
  [/\bcudaErrorMemoryAllocation\b|cannot allocate/u, 'End what fills the memory of the GPU; nvidia-smi lists it'],
  [
    /\bcudaErrorECCUncorrectable\b/u,
    'Restart the machine; if it comes back (nvidia-smi -q -d ECC), the memory of this GPU is broken',
  ],
  [
    /\bcudaError(?:NoKernelImageForDevice|InvalidPtx|UnsupportedPtxVersion|JitCompilerNotFound)\b/u,
    'Build lgdistill for this card, in a checkout (npm ci on the machine that has it), or install a newer driver',
  ],
  [/ has compute capability /u, 'Take another GPU with --device cuda:N, or use the CPU'],
];
const asked = new Map<string, Promise<Finding>>();

const noAnswer = /\bgave no answer within\b/u;

/**
 * Whether a CUDA device works with this addon, and whether products by warpgroups and programmatic launches do: from
 * this process, else from the cache folder, else by trying it. $LGDISTILL_PROBE: `off` takes all for granted, `again`
 * tries anew; a failure is forgotten after an hour, one by a GPU that is full or busy at once. $LGDISTILL_WGMMA=0 or 1
 * settles the second, $LGDISTILL_PDL=0 or 1 the third.
 * @throws LgdError BAD_OPTION for another value of these, or of any switch
 */
export async function probeCuda(options: ProbeOptions): Promise<ProbeResult> {
  checkSwitches();
  const mode = process.env['LGDISTILL_PROBE'] ?? '';
  if (mode === 'off') return { passed: true, reason: '', when: '', remembered: true };
  const key = keyOf(options);
  const known = asked.get(key);
  if (known !== undefined && !options.again) return { ...(await known), remembered: true };
  const kept = options.again || mode === 'again' ? undefined : recall(key, options);
  if (kept !== undefined) return { ...kept, remembered: true };
  const trying = attempt(options).then((finding) => {
    if (!isTransient(finding)) remember(key, finding);
    else if (asked.get(key) === trying) asked.delete(key);
    return finding;
  });
  asked.set(key, trying);
  return { ...(await trying), remembered: false };
}

/**
 * Tries a driver's devices in their order up to the first that passes, the last of the answer; a trial that hangs ends
 * the search, too, as that is the driver's doing more often than a device's.
 * @throws as {@link probeCuda}
 */
export async function probeInOrder(
  options: Omit<ProbeOptions, 'index'>,
): Promise<{ index: number; result: ProbeResult }[]> {
  const tried: { index: number; result: ProbeResult }[] = [];
  for (const { index } of options.status.devices) {
    const result = await probeCuda({ ...options, index });
    tried.push({ index, result });
    if (result.passed || noAnswer.test(result.reason)) break;
  }
  return tried;
}

/** It has answered, so that this process may ask it itself. */
let driverAnswers = false;

/**
 * What the driver says, which a process of its own asks first: with one that hangs or crashes, nobody here could even
 * press Ctrl-C. Without a driver, or with $LGDISTILL_PROBE=off, nothing is started, nor once there was an answer.
 * @param path the addon's file
 */
export async function askCuda(addon: NativeAddon, path: string, timeoutMilliseconds?: number): Promise<CudaStatus> {
  const driver = addon.cudaDriver();
  if (driver === 0 || driverAnswers || process.env['LGDISTILL_PROBE'] === 'off') return addon.cudaStatus();
  const answer = await askStatus(path, timeoutMilliseconds);
  if ('reason' in answer) {
    const reason = `asked in a process of its own, the NVIDIA driver names no devices: ${answer.reason}`;
    return { available: false, reason, driver, devices: [] };
  }
  driverAnswers = answer.status.available;
  return answer.status;
}

/** What to do about what a driver or a trial says, or undefined. */
export function mendForCuda(reason: string): string | undefined {
  return mends.find(([pattern]) => pattern.test(reason))?.[1];
}

/** A failed trial in words, to follow "no CUDA device: ". */
export function describeFailure({ reason, when, transient }: ProbeResult): string {
  const again = transient ? 'it is tried anew the next time' : 'LGDISTILL_PROBE=again tries anew';
  return `cuda failed a trial in a process of its own (${when}; ${again}): ${reason}`;
}

/** Did any of the trials fail by what says nothing of addon, driver or card? */
function isTransient({ transient, wgmma, programmaticLaunches }: Finding): boolean {
  return [transient, wgmma?.transient, programmaticLaunches?.transient].includes(true);
}

/**
 * Where a finding is kept: in $XDG_CACHE_HOME/lgdistill/cuda-probe or ~/.cache/lgdistill/cuda-probe; undefined for a
 * user without a home.
 */
function findingFile(key: string): string | undefined {
  const cache = cacheFolder();
  return cache && join(cache, 'lgdistill', 'cuda-probe', `${key}.json`);
}

const deviceOf = ({ status, index }: ProbeOptions): CudaStatus['devices'][number] | undefined =>
  status.devices.find((one) => one.index === index);

/** Whether products by warpgroups are to be tried: the device has them, and nobody has decided. */
const needsWgmma = (options: ProbeOptions): boolean =>
  deviceOf(options)?.wgmma === true && (process.env['LGDISTILL_WGMMA'] ?? '') === '';

/** The same of programmatic launches, which graphs alone have. */
const needsLaunches = (options: ProbeOptions): boolean =>
  deviceOf(options)?.programmaticLaunches === true &&
  (process.env['LGDISTILL_PDL'] ?? '') === '' &&
  process.env['LGDISTILL_GRAPHS'] !== '0';

/**
 * Changes with the build, its file, the driver, the device (which is another of the same index where others are
 * visible) and what is to be tried.
 */
function keyOf(options: ProbeOptions): string {
  const { addon, build, status, index } = options;
  const { size, mtimeMs } = statSync(addon);
  const device = deviceOf(options);
  const { CUDA_VISIBLE_DEVICES: visible, CUDA_DEVICE_ORDER: order } = process.env;
  return createHash('sha256')
    .update(
      JSON.stringify([
        visible,
        order,
        build.version,
        build.buildId,
        addon,
        size,
        mtimeMs,
        status.driver,
        index,
        device?.name,
        device?.computeCapability,
        needsWgmma(options),
        needsLaunches(options),
      ]),
    )
    .digest('hex')
    .slice(0, 32);
}

const isTrial = (value: unknown): value is ProbeTrial =>
  typeof (value as ProbeTrial | undefined)?.passed === 'boolean' && typeof (value as ProbeTrial).reason === 'string';

function recall(key: string, options: ProbeOptions): Finding | undefined {
  const file = findingFile(key);
  if (file === undefined) return undefined;
  try {
    const { passed, reason, wgmma, programmaticLaunches, when } = JSON.parse(readFileSync(file, 'utf8')) as Finding;
    if (
      !isTrial({ passed, reason }) ||
      (passed &&
        ((needsWgmma(options) && !isTrial(wgmma)) || (needsLaunches(options) && !isTrial(programmaticLaunches))))
    )
      return undefined;
    const age = Date.now() - Date.parse(when);
    const allPassed = passed && wgmma?.passed !== false && programmaticLaunches?.passed !== false;
    return allPassed || (age >= 0 && age < failureLifetime)
      ? { passed, reason, wgmma, programmaticLaunches, when }
      : undefined;
  } catch {
    return undefined; // nothing there, or no file of ours
  }
}

/** Keeps a finding for later processes; where the folder cannot be written, they try again. */
function remember(key: string, finding: Finding): void {
  const file = findingFile(key);
  if (file === undefined) return;
  const temporary = `${file}.${uniqueMark()}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(temporary, JSON.stringify(finding));
    renameSync(temporary, file);
  } catch {
    // no place to remember it; nothing depends on that
  }
}

async function attempt(options: ProbeOptions): Promise<Finding> {
  const when = new Date().toISOString();
  const loss = await tryLoss(options);
  const wgmma = loss.passed && needsWgmma(options) ? await tryWgmma(options) : undefined;
  const programmaticLaunches = loss.passed && needsLaunches(options) ? await tryLaunches(options) : undefined;
  return { ...loss, wgmma, programmaticLaunches, when };
}
