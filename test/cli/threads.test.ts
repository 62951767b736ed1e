import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ensureBuilt } from './built.js';

it('the program decodes on all cores, unless the environment says otherwise', async () => {
  const start = join(await ensureBuilt(), 'dist', 'cli', 'start.cjs');
  // Loaded into a process that then counts the threads that work for libuv: each of these calls takes one.
  const count = `require(${JSON.stringify(start)}); const { pbkdf2 } = require('node:crypto'); const begun = performance.now(); const ends = [];
    for (let i = 0; i < 24; i++) pbkdf2('a', 'b', 60000, 64, 'sha512', () => ends.push(0));
    setTimeout(() => { const threads = require('node:fs').readdirSync('/proc/self/task').length; console.log(threads); process.exit(0); }, 20);`;
  const threads = (env: NodeJS.ProcessEnv): number => {
    const { stdout } = spawnSync(process.execPath, ['-e', count, '--', '--version'], {
      encoding: 'utf8',
      env: { ...process.env, ...env },
    });
    return Number(stdout.trim().split('\n').at(-1));
  };
  const clean = { ...process.env };
  delete clean['UV_THREADPOOL_SIZE'];
  expect(threads({ UV_THREADPOOL_SIZE: '20' }) - threads({ UV_THREADPOOL_SIZE: '8' })).toBe(12);
  const own = spawnSync(process.execPath, ['-e', count, '--', '--version'], { encoding: 'utf8', env: clean });
  expect(Number(own.stdout.trim().split('\n').at(-1)) - threads({ UV_THREADPOOL_SIZE: '8' })).toBe(
    Math.max(4, availableParallelism()) - 8,
  );
});
