import { availableParallelism } from 'node:os';
import { addonPath, loadAddon, loadEmulatedAddon } from './addon/addon.js';
import { askCuda, describeFailure, probeCuda, probeInOrder, type ProbeResult } from './addon/cuda-probe.js';
import type { CudaStatus, DeviceFeatures, DeviceHandle, NativeAddon, NativeDeviceInfo } from './addon/native.js';
import { checkOptions, optionTable } from './arguments.js';
import { LgdError } from './errors.js';
import { held } from './lifetime.js';
import { checkWhole, mostThreads } from './number-limits.js';
import { checkSwitches } from './switches.js';

/** What {@link openDevice} accepts. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | 'cuda-emulated';

/** 'cuda-emulated' runs the CUDA kernels on the CPU, thread by thread: for tests of them on machines without a GPU. */
export type DeviceKind = 'cpu' | 'cuda' | 'cuda-emulated';

/** How {@link openDevice} sets a device up. */
export interface DeviceOptions {
  /** Threads for CPU work, 1 to 4096; default: all cores. */
  threads?: number | undefined;
}

const deviceOptions = optionTable<DeviceOptions>()('threads?');

/** What a device is, and its memory as it is now. */
export interface DeviceInfo extends Omit<NativeDeviceInfo, 'kind'> {
  kind: DeviceKind;
  /** Why this device was taken ('auto' explains itself). */
  reason: string;
  /**
   * Storage types of activations, the device's own choice first. The CPU simulates bfloat16: it rounds so, and stores
   * float32.
   */
  precisions: ('float32' | 'bfloat16')[];
}

/** A CPU or a GPU, with the native queue that keeps its work in order. Close it with {@link Device.dispose}. */
export class Device implements Disposable {
  readonly addon: NativeAddon;
  readonly kind: DeviceKind;
  readonly #reason: string;
  #handle: DeviceHandle | undefined;

  /** Use {@link openDevice}. */
  constructor(kind: DeviceKind, addon: NativeAddon, handle: DeviceHandle, reason: string) {
    this.kind = kind;
    this.addon = addon;
    this.#handle = handle;
    this.#reason = reason;
  }

  /** The native handle. @throws LgdError DISPOSED */
  get handle(): DeviceHandle {
    return held(this.#handle, `the device ${this.kind}`, 'Open it again with openDevice()');
  }

  /** Name, memory and precisions, as they are now. */
  get info(): DeviceInfo {
    const { kind, addon } = this;
    return {
      ...addon.deviceInfo(this.handle),
      kind,
      reason: this.#reason,
      precisions: kind === 'cpu' ? ['float32', 'bfloat16'] : ['bfloat16', 'float32'],
    };
  }

  /** Resolves once all queued work has run; rejects with the first error in it. */
  async synchronize(): Promise<void> {
    await this.addon.synchronize(this.handle);
  }

  /** Lets the device go. Objects made on it keep it alive natively until they go too. */
  dispose(): void {
    if (this.#handle !== undefined) this.addon.release(this.#handle);
    this.#handle = undefined;
  }

  /** For `using`: {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Opens a device. 'auto' takes the first CUDA device that works, else the CPU; `device.info.reason` says why, and of
 * those before it why not. The first time on a machine a CUDA device is tried in a child process, and the result is
 * remembered ($LGDISTILL_PROBE=off or again); a crash there is a reason not to take it. Where it has products by
 * warpgroups (`wgmma`, compute capability 9.0), these are tried too, and a fault in them is a reason to form products
 * by `mma.sync`, as `device.info.products` tells ($LGDISTILL_WGMMA=0 or 1 decides). So are programmatic launches
 * (compute capability 9.0), which are used where they are right, as `device.info.launches` tells ($LGDISTILL_PDL=0 or 1
 * decides). 'cuda-emulated' is another addon beside the first, in checkouts where it is built: its objects work with no
 * other device's.
 * @throws LgdError BAD_OPTION (also of an environment variable), DEVICE_UNAVAILABLE (an explicit 'cuda' never falls
 *   back; the system starts no further thread), ADDON_NOT_FOUND
 */
export async function openDevice(name: DeviceName = 'auto', options: DeviceOptions = {}): Promise<Device> {
  checkOptions(options, 'openDevice()', deviceOptions);
  checkSwitches();
  const threads = options.threads ?? availableParallelism();
  checkWhole('threads', threads, mostThreads);
  const match = /^(auto|cpu|cuda|cuda-emulated)(?::(\d+))?$/.exec(typeof name === 'string' ? name : '');
  if (!match || (match[2] !== undefined && match[1] !== 'cuda')) {
    throw new LgdError('BAD_OPTION', 'not a device.', {
      option: 'device',
      found: name,
      allowed: "'auto', 'cpu', 'cuda', 'cuda:N' or 'cuda-emulated'",
    });
  }
  if (name === 'cuda-emulated') {
    const emulated = loadEmulatedAddon();
    return new Device('cuda-emulated', emulated, emulated.openDevice('cuda', 0, threads), 'asked for');
  }
  const addon = loadAddon();
  if (name === 'cpu') return new Device('cpu', addon, addon.openDevice('cpu', 0, threads), 'asked for');
  const status = await askCuda(addon, addonPath());
  const wanted = name === 'auto' ? undefined : Number(match[2] ?? 0);
  const { index, trouble, features } = status.available
    ? await probe(status, wanted)
    : { index: undefined, trouble: status.reason };
  if (index !== undefined) {
    const reason =
      name !== 'auto'
        ? 'asked for'
        : trouble === undefined
          ? 'a CUDA device is there'
          : `cuda:${index} works, unlike those before it: ${trouble}`;
    return new Device('cuda', addon, addon.openDevice('cuda', index, threads, features), reason);
  }
  if (name === 'auto')
    return new Device('cpu', addon, addon.openDevice('cpu', 0, threads), `no CUDA device: ${trouble}`);
  throw new LgdError('DEVICE_UNAVAILABLE', `no CUDA device can be used: ${trouble}.`, {
    option: 'device',
    found: name,
    mend: 'Run `lgdistill doctor`, or use --device cpu',
  });
}

/** The device that is to be used and what of it may be, and why others that the driver lists are not. */
async function probe(
  status: CudaStatus,
  wanted: number | undefined,
): Promise<{ index?: number; trouble?: string | undefined; features?: DeviceFeatures }> {
  const options = { addon: addonPath(), build: loadAddon().buildInfo(), status };
  // opening it says which there are
  if (wanted !== undefined && !status.devices.some((device) => device.index === wanted)) return { index: wanted };
  const tried =
    wanted === undefined
      ? await probeInOrder(options)
      : [{ index: wanted, result: await probeCuda({ ...options, index: wanted }) }];
  const failed = tried.filter(({ result }) => !result.passed);
  const say = ({ index, result }: { index: number; result: ProbeResult }): string =>
    status.devices.length === 1 ? describeFailure(result) : `cuda:${index}: ${describeFailure(result)}`;
  const trouble = failed.length === 0 ? undefined : failed.map(say).join('; ');
  const { index, result } = tried.at(-1)!;
  if (!result.passed) return { trouble };
  const { wgmma, programmaticLaunches } = result;
  return {
    index,
    trouble,
    features: { wgmma: wgmma?.passed ?? true, programmaticLaunches: programmaticLaunches?.passed ?? true },
  };
}
