import { appendFileSync } from 'node:fs';

/** What the checks and measurements share: sizes, where rows go, and how many failed. */
export class Report {
  /** GPU_CHECK_SMALL: sizes that an emulated GPU computes within seconds. */
  readonly small = process.env['GPU_CHECK_SMALL'] !== undefined;
  checks = 0;
  failures = 0;

  /** Prints a line and keeps it as a row. */
  check(part: string, name: string, value: string, good: boolean): void {
    this.checks++;
    if (!good) this.failures++;
    console.log(`${good ? '  ' : '! '}${part.padEnd(9)} ${name.padEnd(58)} ${value}${good ? '' : ' FAIL'}`);
    this.row({ part, name, value, good });
  }

  /** Runs a check; an error is a failure of it and of nothing else. */
  async attempt(part: string, name: string, body: () => Promise<void> | void): Promise<void> {
    try {
      await body();
    } catch (error) {
      this.check(part, name, (error as Error).message, false);
    }
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
