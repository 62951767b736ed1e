// lgdistill's native backend behind the public calls: every value is checked, and the results are new arrays, in every
// call.
import { bankLoss, bankUpdate, openDevice, version } from '../../dist/index.js';
import { trainOurs } from '../encoder.mjs';
import { Absent } from './index.mjs';
import { lossResult } from './js.mjs';

export async function openOrAbsent(name, threads) {
  try {
    return await openDevice(name, { threads });
  } catch (error) {
    if (error.code === 'DEVICE_UNAVAILABLE' || error.code === 'ADDON_NOT_FOUND')
      throw new Absent(error.message, { cause: error });
    throw error;
  }
}

/** What ran: instruction set and threads, or the GPU. */
export function describeDevice(device) {
  const { info } = device;
  const { isa, buildId } = device.addon.buildInfo();
  return device.kind === 'cpu'
    ? {
        detail: `${isa}, ${info.threads} thread${info.threads === 1 ? '' : 's'}`,
        threads: info.threads,
        versions: { lgdistill: version, build: buildId },
      }
    : { detail: info.name, threads: undefined, versions: { lgdistill: version, build: buildId } };
}

export async function open({ device: name, threads }) {
  const device = await openOrAbsent(name, threads);
  const prepare = (call) => (input) => {
    let output;
    return {
      run: async () => (output = await call(input, { device })),
      result: () => lossResult(output),
      dispose() {},
    };
  };
  return {
    ...describeDevice(device),
    bankLoss: prepare(bankLoss),
    bankUpdate: prepare(bankUpdate),
    trainEncoder: (spec) => trainOurs(device, spec),
    close: () => device.dispose(),
  };
}
