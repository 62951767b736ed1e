/**
 * Takes locks in a process of its own, as its parent's messages say, and answers each; or one that its argument names,
 * and holds it.
 */
import { mkdirSync, readFileSync, renameSync, rmdirSync, writeFileSync } from 'node:fs';
import { takeLock } from '../../lib/files/process-lock.js';
import { uniqueMark } from '../../lib/files/temporary-name.js';

export type LockMessage =
  /** Take the lock at a moment; answers whether it is held. */
  | { type: 'take'; file: string; at: number }
  /**
   * Take it so many times, and give it back or leave it as a process that died would; answers how often another held it,
   * too.
   */
  | { type: 'churn'; file: string; times: number };

if (process.argv[2] !== undefined) {
  void takeLock(process.argv[2]);
  setInterval(() => undefined, 1000);
}

process.on('message', (message: LockMessage) => {
  void (message.type === 'take' ? take(message) : churn(message)).then((answer) => process.send!(answer));
});

async function take({ file, at }: { file: string; at: number }): Promise<boolean> {
  while (Date.now() < at); // all begin within a fraction of a millisecond
  return 'release' in (await takeLock(file));
}

async function churn({ file, times }: { file: string; times: number }): Promise<number> {
  const [inside, copy] = [`${file}.inside`, `${file}.${process.pid}`];
  let together = 0;
  for (let held = 0; held < times;) {
    const lock = await takeLock(file);
    if (!('release' in lock)) continue;
    held++;
    try {
      mkdirSync(inside);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 2));
      rmdirSync(inside);
      if (Math.random() < 0.5) await lock.release();
      else {
        // an earlier process of this number
        writeFileSync(
          copy,
          JSON.stringify({ ...(JSON.parse(readFileSync(file, 'utf8')) as object), started: '1', mark: uniqueMark() }),
        );
        renameSync(copy, file);
      }
    } catch {
      together++; // another made the folder, removed it, or took the lock
      await lock.release();
    }
  }
  return together;
}
