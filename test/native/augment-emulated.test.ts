import { beforeAll, describe, expect, it } from 'vitest';
import { buildEmulatedAddon, linkWithEmulation, runProgram } from './emulated.js';

describe('CUDA augmentation, emulated', () => {
  let program = '';
  beforeAll(() => {
    buildEmulatedAddon();
    program = linkWithEmulation('test/native/augment_emulated/main.cpp');
  }, 600_000);

  it.each(['forward', 'reverse'])('gives the same views as the CPU in %s thread order', (order) => {
    const { output } = runProgram(program, [], { LGDISTILL_EMULATION_ORDER: order });
    expect(output).toMatch(/^168 checks, 0 failures\s*$/);
  }, 300_000);
});
