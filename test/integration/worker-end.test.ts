import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { isWanted } from '../devices.js';
import { bundleChild } from '../fixtures/child.js';
import { buildEmulatedAddon } from '../native/emulated.js';

const child = await bundleChild('test/integration/worker-end-child.ts');

// Node frees what an environment has, and unloads the addon that no other one has, while a device's thread may still be
// on its way.
describe.each((['cpu', 'cuda-emulated'] as const).filter((kind) => isWanted(kind, 'threads that end')))(
  'threads that are ended while their devices work',
  (kind) => {
    it(`leave the process as it was: ${kind}`, async () => {
      if (kind === 'cuda-emulated') buildEmulatedAddon();
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [child, kind]);
      expect(stderr).toBe('');
      expect(Number(stdout)).toBeGreaterThan(0);
    }, 1_200_000);
  },
);
