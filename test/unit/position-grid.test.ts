import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { resamplePositions } from '../../lib/models/teachers/position-grid.js';

// PyTorch's interpolate(mode='bicubic') of a grid of 7: test/vectors/towers/make_plain.py.
const { tensors } = await readSafetensors(
  fileURLToPath(new URL('../vectors/towers/positions.safetensors', import.meta.url)),
);
const valuesOf = (name: string) => tensors.get(name)!.data as Float32Array;

describe.each([false, true])('positions, antialias %s', (antialias) => {
  it.each([1, 3, 5, 8, 20])('are interpolated to a grid of %i as PyTorch does', (to) => {
    const found = resamplePositions(valuesOf('table'), { width: 3, from: 7, to, antialias });
    const expected = valuesOf(antialias ? `${to}_antialias` : `${to}`);
    expect(found.length).toBe(to * to * 3);
    expect(Math.max(...found.map((value, i) => Math.abs(value - expected[i]!)))).toBeLessThan(1e-6);
  });

  it('stay as they are on the same grid', () => {
    const table = valuesOf('table');
    expect(resamplePositions(table, { width: 3, from: 7, to: 7, antialias })).toBe(table);
  });
});
