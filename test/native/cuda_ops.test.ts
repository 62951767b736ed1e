import { beforeAll, describe, expect, it } from 'vitest';
import { buildEmulatedAddon, linkWithEmulation, runProgram } from './emulated.js';

// Every CUDA kernel of native/ops runs on the host, thread by thread, and is held to its CPU twin.
describe('CUDA operations, emulated', () => {
  let program = '';
  beforeAll(() => {
    buildEmulatedAddon();
    program = linkWithEmulation(...['main', 'fused_conv', 'fused_depthwise', 'fused_norm'].map((name) => `test/native/cuda_ops/${name}.cpp`));
  }, 600_000);

  it.each(['forward', 'random'])('agree with the CPU in %s thread order', (order) => {
    const { status, output } = runProgram(program, ['small'], { LGDISTILL_EMULATION_ORDER: order });
    expect(output).toMatch(/cuda operations: [1-9]\d+ checks, 0 failed/);
    expect(status).toBe(0);
  }, 600_000);
});
