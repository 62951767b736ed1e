import { appendFileSync, writeFileSync } from 'node:fs';

/** What the checks and measurements share: sizes, where rows go, and how many failed. */
export class Report {
  /** GPU_CHECK_SMALL: sizes that an emulated GPU computes within seconds. */
  readonly small = process.env['GPU_CHECK_SMALL'] !== undefined;
  checks = 0;
  failures = 0;
  /** What runs now, or ''. */
  doing = '';
  private begun = 0;
  private readonly from = Number(process.env['GPU_CHECK_FROM'] ?? 0);
  /** This check alone, each launch waited for. */
  private readonly one = (process.env['GPU_CHECK_ONE'] ?? '') !== '';

  /** Prints a line and keeps it as a row. */
  check(part: string, what: string, value: string, good: boolean): void {
    const name = `${what}${this.one ? ', each launch waited for' : ''}`;
    this.checks++;
    if (!good) this.failures++;
    console.log(`${good ? '  ' : '! '}${part.padEnd(9)} ${name.padEnd(58)} ${value}${good ? '' : ' FAIL'}`);
    this.row({ part, name, value, good });
  }

  /**
   * Runs a check; an error is a failure of it and of nothing else. But one that takes the GPU from this process would
   * fail all that follow: the process ends, and the file $GPU_CHECK_LOST tells behind which check another is to go on
   * ($GPU_CHECK_FROM, scripts/gpu-check).
   */
  async attempt(part: string, name: string, body: () => Promise<void> | void): Promise<void> {
    const number = this.begun++;
    if (this.one ? number !== this.from : number < this.from) return;
    this.doing = name;
    try {
      await body();
    } catch (error) {
      this.check(part, name, (error as Error).message, false);
      const file = process.env['GPU_CHECK_LOST'] ?? '';
      if ((error as { code?: string }).code === 'DEVICE_LOST' && file !== '') {
        console.log(`gpu-check: this process has lost the GPU; another goes on behind ${name}`);
        writeFileSync(file, String(number + 1));
        process.exit(1);
      }
    }
    this.doing = '';
  }

  /** Runs what may hold other checks. */
  async attemptWhole(part: string, body: () => Promise<void> | void): Promise<void> {
    try {
      await body();
    } catch (error) {
      this.check(part, 'the whole part', (error as Error).message, false);
    }
  }

  /** Says where a part was stopped. */
  stop(parts: string): void {
    if (this.doing !== '') this.check(parts, this.doing, 'stopped in it', false);
  }

  /** A row of bench/results (bench/results/README.md), in the file that $GPU_CHECK_ROWS names. */
  row(row: object): void {
    const file = process.env['GPU_CHECK_ROWS'];
    if (file !== undefined) appendFileSync(file, `${JSON.stringify(row)}\n`);
  }
}

/**
 * Norm of the difference over the norm of what is expected, over all arrays together; not finite where a value is not.
 */
export function wholeError(found: readonly ArrayLike<number>[], expected: readonly ArrayLike<number>[]): number {
  let [difference, size] = [0, 1e-300];
  expected.forEach((values, array) => {
    if (found[array]?.length !== values.length) difference = Infinity;
    for (let i = 0; i < values.length; i++) {
      difference += (found[array]![i]! - values[i]!) ** 2;
      size += values[i]! ** 2;
    }
  });
  return Math.sqrt(difference / size);
}

/** The arrays of a record in the order of another's names. */
export function inOrder<Value>(
  record: Readonly<Record<string, Value>>,
  names: Readonly<Record<string, unknown>>,
): Value[] {
  return Object.keys(names).map((name) => record[name]!);
}

export function sameBits(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const bytes = (values: ArrayBufferView) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return bytes(a).equals(bytes(b));
}

/** Runs `body` with environment variables set that the addon reads. */
export async function withEnvironment<Result>(
  variables: Readonly<Record<string, string>>,
  body: () => Promise<Result>,
): Promise<Result> {
  Object.assign(process.env, variables);
  try {
    return await body();
  } finally {
    for (const name of Object.keys(variables)) delete process.env[name];
  }
}

export const digits = (value: number) => value.toExponential(1);
