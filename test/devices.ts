import { afterAll } from 'vitest';
import { loadAddon } from '../lib/addon/addon.js';
import { openDevice, type Device, type DeviceKind } from '../lib/device.js';
import { LgdError } from '../lib/errors.js';
import { buildEmulatedAddon, executePtx } from './native/emulated.js';
import { noteSkip } from './shared.js';

export interface TestDevice {
  name: DeviceKind;
  device: Device;
  /** A CPU that plays a GPU: thousands of times slower, so tests choose small shapes for it. */
  emulated: boolean;
}

const kinds: readonly (DeviceKind | 'js')[] = ['js', 'cpu', 'cuda-emulated', 'cuda'];

/**
 * The devices that a test file runs on: the CPU, the emulated GPU (built first, as far as its sources changed) and a
 * GPU where there is one. $LGDISTILL_TEST_DEVICES, a list of names with commas, leaves some out. Every absent one is a
 * printed line. Threads and blocks of the emulated GPU run in random order unless $LGDISTILL_EMULATION_ORDER says
 * another. Call it at the top of a file: the devices are disposed of after its tests.
 */
export async function devicesUnderTest(what: string): Promise<TestDevice[]> {
  const devices: TestDevice[] = [];
  for (const name of kinds) {
    if (name === 'js' || !isWanted(name, what)) continue;
    const status = name === 'cuda' ? loadAddon().cudaStatus() : undefined;
    if (status?.available === false) {
      noteSkip(`${what} on cuda`, status.reason);
      continue;
    }
    if (name === 'cuda-emulated') {
      buildEmulatedAddon();
      await executePtx(what);
      process.env['LGDISTILL_EMULATION_ORDER'] ??= 'random';
    }
    devices.push({ name, device: await openDevice(name), emulated: name === 'cuda-emulated' });
  }
  afterAll(() => devices.forEach(({ device }) => device.dispose()));
  return devices;
}

/**
 * Does $LGDISTILL_TEST_DEVICES leave this one in? Prints a line if not. 'js' is the plain TypeScript of the semantic
 * functions.
 */
export function isWanted(name: DeviceKind | 'js', what: string): boolean {
  const list = process.env['LGDISTILL_TEST_DEVICES'];
  if (list === undefined || list === '') return true;
  const wanted = list.split(',');
  const unknown = wanted.find((one) => !kinds.includes(one as DeviceKind));
  if (unknown !== undefined)
    throw new LgdError('BAD_OPTION', 'not a device to test.', {
      option: 'LGDISTILL_TEST_DEVICES',
      found: unknown,
      allowed: kinds.join(', '),
    });
  if (!wanted.includes(name)) noteSkip(`${what} on ${name}`, `LGDISTILL_TEST_DEVICES is ${list}`);
  return wanted.includes(name);
}
