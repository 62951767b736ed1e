import { Writable } from 'node:stream';
import { runProgram } from '../../lib/cli/program.js';

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
  /** stdout, read as one JSON document a line. */
  documents: () => Record<string, unknown>[];
}

function collector(): { stream: Writable; text: () => string } {
  const parts: string[] = [];
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      parts.push(chunk.toString());
      done();
    },
  });
  return { stream, text: () => parts.join('') };
}

/** Runs a command line in this process, as it runs where nothing is a terminal. */
export async function lgdistill(
  args: readonly string[],
  { env = {}, signal = new AbortController().signal }: { env?: NodeJS.ProcessEnv; signal?: AbortSignal } = {},
): Promise<Outcome> {
  const [stdout, stderr] = [collector(), collector()];
  const code = await runProgram(args, { stdout: stdout.stream, stderr: stderr.stream, env }, signal);
  return {
    code,
    stdout: stdout.text(),
    stderr: stderr.text(),
    documents: () =>
      stdout
        .text()
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Record<string, unknown>),
  };
}
