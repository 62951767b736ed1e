// The floor: how long OpenBLAS takes for the products of each operation. A C program, compiled here, in a process of
// its own.
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { summary } from '../measure.mjs';
import { Absent } from './index.mjs';

export async function open({ threads = availableParallelism() }) {
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-sgemm-'));
  const program = join(folder, 'sgemm');
  const close = () => rmSync(folder, { recursive: true, force: true });
  const built = spawnSync(
    process.env.CC ?? 'cc',
    ['-O2', '-o', program, fileURLToPath(new URL('sgemm.c', import.meta.url)), '-lopenblas'],
    { encoding: 'utf8' },
  );
  if (built.status !== 0) {
    close();
    const reason = built.error?.message ?? built.stderr.trim().split('\n')[0];
    throw new Absent(
      `sgemm.c cannot be built (${reason}); it needs a C compiler and OpenBLAS (Debian: apt-get install gcc libopenblas-dev)`,
    );
  }
  // A machine may name an older kernel for other programs' sake; here OpenBLAS chooses the one for this processor.
  const env = { ...process.env, OPENBLAS_NUM_THREADS: String(threads) };
  for (const name of ['OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE']) delete env[name];
  const opened = { detail: '', threads, versions: {}, close };
  const prepare = (op) => (input) => ({
    async measure(seconds) {
      const size = [input.student.length / input.dimension, input.dimension, input.seen.length].map(String);
      const { stdout } = await promisify(execFile)(program, [op, ...size, String(seconds)], { env });
      const [kernel, description, ...lines] = stdout.trim().split('\n');
      opened.versions = { openblas: /[\d.]+/.exec(description)[0] };
      opened.detail = `${kernel} kernels, ${threads} thread${threads === 1 ? '' : 's'}`;
      return summary(lines.map((line) => line.split(' ').map(Number)).map(([wall, cpu]) => ({ wall, cpu })));
    },
    dispose() {},
  });
  return Object.assign(opened, { bankLoss: prepare('bankLoss'), bankUpdate: prepare('bankUpdate') });
}
