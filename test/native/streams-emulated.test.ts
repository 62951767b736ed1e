import { beforeAll, describe, expect, it } from 'vitest';
import { buildEmulatedAddon, linkWithEmulation, runProgram } from './emulated.js';

describe('streams and captures of the emulated GPU', () => {
  let program = '';
  beforeAll(() => {
    buildEmulatedAddon();
    program = linkWithEmulation('test/native/streams_emulated/main.cpp');
  }, 600_000);

  it.each(['forward', 'reverse', 'random'])('refuse mistakes and keep the order of a device, in %s order', (order) => {
    const { output } = runProgram(program, [], { LGDISTILL_EMULATION_ORDER: order });
    expect(output).toMatch(/^\d+ checks, 0 failures\s*$/);
  }, 300_000);
});
