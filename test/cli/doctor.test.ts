import { afterEach, expect, test, vi } from 'vitest';
import { addonPath, loadAddon } from '../../lib/native.js';
import type { SystemReport } from '../../lib/system.js';
import { version } from '../../lib/version.js';
import { lgdistill } from './program.js';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.resetModules();
});

test('says what is there, as one JSON document', async () => {
  const { code, documents, stderr } = await lgdistill(['doctor', '--json']);
  expect(code).toBe(0);
  const [report, ...more] = documents() as unknown as SystemReport[];
  expect(more).toEqual([]);
  const build = loadAddon().buildInfo();
  expect(report).toMatchObject({
    usable: true, version, node: process.versions.node, addon: { ...build, path: addonPath() },
    dependencies: { sharp: { version: expect.stringMatching(/^\d+\.\d+/u) as string }, transformers: { version: '2.17.2' }, onnxruntime: { version: '1.14.0' } },
  });
  const cuda = loadAddon().cudaStatus();
  expect(report!.device).toBe(cuda.available ? 'cuda' : 'cpu');
  expect(report!.cuda).toMatchObject({ available: cuda.available, required: Math.floor(build.cudaRuntime / 1000) * 1000 });
  expect(report!.problems.some(({ what }) => what.includes('CUDA'))).toBe(!cuda.available);
  expect(report!.memory.free).toBeGreaterThan(0);
  expect(report!.disk!.free).toBeGreaterThan(0);
  expect(stderr).toContain(addonPath()); // people read the same on stderr
});

test('a machine without the addon is not usable, and the command to type is said', async () => {
  vi.stubEnv('LGDISTILL_ADDON', '/nowhere/lgdistill.node');
  vi.resetModules(); // the addon is loaded once a process
  const { lgdistill: fresh } = await import('./program.js');
  const { code, stdout } = await fresh(['doctor']);
  expect(code).toBe(1);
  expect(stdout).toContain('the native addon cannot be loaded\n  -> npm run build:native');
  expect(stdout.trimEnd()).toMatch(/not usable$/u);
});
