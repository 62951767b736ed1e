/** Runs on the emulated GPU of which one call fails (test/native/emulation/faults.h). */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

/** A call by its function, or `*`, or several with `|`; its number from 1; the error's name. */
export type Fault = readonly [functions: string, number: number, error: string];

/** Lines of the list of calls: the function, and the error of one that failed. */
export type Call = readonly [name: string, error?: string];

/**
 * Does `body` with a call that fails, or without, and lists the calls into `file`.
 * @param keeps whether what `body` made may outlive it; else the list ends when all of it is given back, or five
 *   seconds later
 */
export async function withFault<Result>(
  file: string,
  fault: Fault | undefined,
  body: () => Promise<Result>,
  keeps = false,
): Promise<{ result?: Result; error?: unknown; calls: Call[] }> {
  rmSync(file, { force: true });
  process.env['LGDISTILL_EMULATION_CALLS'] = file;
  process.env['LGDISTILL_EMULATION_FAULT'] = fault?.join(':') ?? '';
  const outcome: { result?: Result; error?: unknown } = {};
  try {
    outcome.result = await body();
  } catch (error) {
    outcome.error = error;
  }
  const calls = keeps ? callsIn(file) : await settledCalls(file);
  delete process.env['LGDISTILL_EMULATION_CALLS'];
  delete process.env['LGDISTILL_EMULATION_FAULT'];
  return { ...outcome, calls };
}

const pairs = {
  cudaMalloc: 'cudaFree',
  cudaHostAlloc: 'cudaFreeHost',
  cudaStreamCreateWithFlags: 'cudaStreamDestroy',
  cudaEventCreateWithFlags: 'cudaEventDestroy',
  cudaEventCreate: 'cudaEventDestroy',
  cudaGraphCreate: 'cudaGraphDestroy',
  cudaGraphInstantiate: 'cudaGraphExecDestroy',
} as const;

/** What was made and not freed, by what frees it. */
export function leftOver(calls: readonly Call[]): Record<string, number> {
  const left: Record<string, number> = {};
  const frees = new Set<string>(Object.values(pairs));
  for (const [name, error] of calls) {
    const free = pairs[name as keyof typeof pairs] as string | undefined;
    if (free !== undefined && error === undefined) left[free] = (left[free] ?? 0) + 1;
    if (frees.has(name)) left[name] = (left[name] ?? 0) - 1;
  }
  return Object.fromEntries(Object.entries(left).filter(([, count]) => count !== 0));
}

function callsIn(file: string): Call[] {
  return existsSync(file)
    ? readFileSync(file, 'utf8')
        .split('\n')
        .filter(Boolean)
        .map((line) => line.split(' ') as unknown as Call)
    : [];
}

/** Native objects may go a little later than their owners, with the device's thread. */
async function settledCalls(file: string): Promise<Call[]> {
  for (let tries = 0; ; tries++) {
    const calls = callsIn(file);
    if (tries === 500 || Object.keys(leftOver(calls)).length === 0) return calls;
    await delay(10);
  }
}
