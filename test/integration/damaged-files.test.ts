/**
 * Whatever reads a file that others made, or that a disk may have damaged, takes it or refuses it with an error that has
 * a code, within seconds: never by an error of the language or of a library, and not without end. It closes the file.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice, type Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { damage } from '../fixtures/damage.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { randomNumbers } from '../fixtures/random.js';
import { readers } from '../fixtures/readers.js';
import { noteSkip } from '../shared.js';

// LGDISTILL_DAMAGED_FILES=first..last takes other seeds, each of which is another damage to every file.
const [first = 1, last = 10] = (process.env['LGDISTILL_DAMAGED_FILES'] ?? '')
  .split('..')
  .filter((one) => one !== '')
  .map(Number);
const seconds = 20; // a page of a parquet file that tells of too many values is given up after ten

// A read that never lets go of this thread cannot be timed by it.
const watchdog = new Worker(
  `const { parentPort } = require('node:worker_threads');
  let timer;
  parentPort.on('message', (what) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      require('node:fs').writeSync(2, what + ': held up its thread\\n');
      process.kill(process.pid, 'SIGKILL');
    }, ${2000 * seconds});
  });`,
  { eval: true },
);

let device: Device;
const root = temporaryFolder();
beforeAll(async () => (device = await openDevice('cpu', { threads: 1 })));
afterAll(async () => {
  await watchdog.terminate();
  device.dispose();
});

/** What is wrong with how a file was taken; undefined: nothing. */
async function faultOf(work: Promise<unknown>): Promise<string | undefined> {
  const from = performance.now();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<unknown>((resolve) => {
    timer = setTimeout(resolve, 1000 * seconds);
  });
  const told = work.then(
    () => undefined,
    (error: unknown) => (error instanceof LgdError ? undefined : error),
  );
  const error = await Promise.race([told, late]).finally(() => clearTimeout(timer));
  if (error !== undefined) return `not an LgdError: ${(error as Error).stack ?? String(error)}`;
  return performance.now() - from < 1000 * seconds ? undefined : `no end within ${seconds} seconds`;
}

const openFiles = '/proc/self/fd'; // on Linux
if (!existsSync(openFiles)) noteSkip('whether readers close damaged files', `there is no ${openFiles}`);

/** The files of a folder that this process has open, but for packs, which the collector closes. */
async function leftOpen(folder: string): Promise<string[]> {
  const numbers = await readdir(openFiles).catch(() => []);
  const paths = await Promise.all(numbers.map((number) => readlink(join(openFiles, number)).catch(() => '')));
  return paths.filter((path) => path.startsWith(folder) && !path.endsWith('.pack'));
}

describe('a damaged file is taken, or refused by an error with a code:', () => {
  it.each(readers)('$name', async ({ name, file, kind, make, read, seal }) => {
    const folder = await mkdtemp(join(root, 'reader-'));
    const path = join(folder, file);
    const place = { file: path, folder, device };
    watchdog.postMessage(`${name}, made`);
    await make(place);
    const whole = await readFile(path);
    watchdog.postMessage(`${name}, whole`);
    await read(place);
    for (let seed = first; seed <= last; seed++) {
      const { bytes, how } = damage(whole, kind, randomNumbers(seed));
      await writeFile(path, seal?.(Buffer.from(bytes)) ?? bytes);
      const what = `${name}, seed ${seed}, ${how}`;
      watchdog.postMessage(what);
      const fault = await faultOf(read(place));
      expect(fault && `${what}: ${fault}`).toBeUndefined();
    }
    await expect.poll(() => leftOpen(folder), { timeout: 60_000 }).toEqual([]); // streams close behind an error
  });
});
