import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { bundleChild } from '../fixtures/child.js';
import { tinyClip } from '../fixtures/tiny.js';

const child = await bundleChild('test/integration/worker-text-child.ts');

it('text is encoded in one worker thread; where another has had onnxruntime, an error says what to do', async () => {
  const gone = {
    code: 'DEPENDENCY_MISSING',
    message: expect.stringContaining('onnxruntime-node could not be loaded: Module did not self-register') as unknown,
    mend: expect.stringContaining('load it in one thread alone') as unknown,
  };
  const { stdout } = await promisify(execFile)(process.execPath, [child, tinyClip]);
  expect(JSON.parse(stdout)).toMatchObject([256, gone, gone]);
});
