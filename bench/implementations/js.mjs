// lgdistill's own plain TypeScript in float64: the reference of all checks, and the plainest row.
import { bankLoss, bankUpdate, version } from '../../dist/index.js';

export async function open() {
  const prepare = (call) => (input) => {
    let output;
    return {
      run: async () => (output = await call(input, { device: 'js' })),
      result: () => lossResult(output),
      dispose() {},
    };
  };
  return {
    detail: 'float64, one thread',
    threads: 1,
    versions: { lgdistill: version },
    bankLoss: prepare(bankLoss),
    bankUpdate: prepare(bankUpdate),
    close() {},
  };
}

/** What check.mjs compares. */
export function lossResult(output) {
  return output.gradient === undefined
    ? output
    : { losses: Float64Array.of(output.loss, output.lossVisual, output.lossTextual), gradient: output.gradient };
}
