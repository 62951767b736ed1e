import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { bundleChild } from '../fixtures/child.js';
import { tinyClip } from '../fixtures/text-encoder.js';

const child = await bundleChild('test/integration/worker-text-child.ts');
const encodeIn = async (...more: string[]) => JSON.parse((await promisify(execFile)(process.execPath, [child, tinyClip, ...more])).stdout) as unknown;

it('text is encoded in one worker thread after the other where the main thread has onnxruntime, and else its error says so', async () => {
  expect(await encodeIn('first')).toEqual([256, 256, 256]);
  const gone = { code: 'DEPENDENCY_MISSING', message: expect.stringContaining('onnxruntime-node could not be loaded: Module did not self-register') as unknown, mend: expect.stringContaining("start the main thread with import 'onnxruntime-node'") as unknown };
  expect(await encodeIn()).toMatchObject([256, gone, gone]);
});
