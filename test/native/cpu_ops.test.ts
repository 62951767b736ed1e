import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildEmulatedPrograms, runProgram } from './emulated.js';

/** Instruction sets that native/core/simd.cpp would choose from on this processor. */
function instructionSets(): string[] {
  const found = ['baseline'];
  let cpu = '';
  try {
    cpu = readFileSync('/proc/cpuinfo', 'utf8').match(/^flags\s*:(.*)$/m)?.[1] ?? '';
  } catch {
    return found;
  }
  const has = (...names: string[]): boolean => names.every((name) => ` ${cpu} `.includes(` ${name} `));
  if (has('avx2', 'fma')) found.push('avx2');
  if (found.length === 2 && has('avx512f', 'avx512bw', 'avx512dq', 'avx512vl')) found.push('avx512');
  return found;
}

describe('CPU operations against float64 loops', () => {
  let program = '';
  beforeAll(() => {
    program = join(buildEmulatedPrograms(), 'cpu_ops');
  }, 1_200_000);

  it.each(instructionSets())('agrees on %s', (isa) => {
    const { status, output } = runProgram(program, [], { LGDISTILL_ISA: isa });
    expect(output).toMatch(new RegExp(`^${isa}: [1-9]\\d{3,} checks, 0 failures\\s*$`));
    expect(status).toBe(0);
  });
});
