/** A thread that takes a lock and holds it until it ends. */
import { parentPort, workerData } from 'node:worker_threads';
import { takeLock } from '../../lib/files/process-lock.js';

const lock = await takeLock(workerData as string);
parentPort!.postMessage('release' in lock);
setInterval(() => undefined, 1000);
