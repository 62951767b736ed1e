/**
 * Encodes a text in one worker thread after the other, then in the main thread: node child.mjs <model>. Prints what
 * came of each as JSON.
 */
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { LgdError } from '../../lib/errors.js';
import { loadTextEncoder } from '../../lib/text/load-encoder.js';

async function encode(model: string): Promise<unknown> {
  try {
    const encoder = await loadTextEncoder(model, { localFilesOnly: true });
    const rows = await encoder.encode(['a cat']);
    await encoder.dispose();
    return rows.length;
  } catch (error) {
    return error instanceof LgdError ? error.toJSON() : String(error);
  }
}

if (isMainThread) {
  const [, , model] = process.argv as [string, string, string];
  const found: unknown[] = [];
  for (let i = 0; i < 2; i++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: model });
    const ended = once(worker, 'exit');
    found.push((await once(worker, 'message'))[0]);
    await ended;
  }
  found.push(await encode(model));
  process.stdout.write(JSON.stringify(found));
} else parentPort!.postMessage(await encode(workerData as string));
