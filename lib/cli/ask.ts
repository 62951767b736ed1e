import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { LgdError } from '../errors.js';
import { isSet, type Streams } from './terminal.js';

export interface Question {
  text: string;
  /** What Return alone answers; '' for nothing. */
  suggestion: string;
  /** What Tab completes to, besides paths. */
  words: readonly string[];
  /** Returns a remark on an answer, or throws an LgdError that says what is wrong with it: it is then asked again. */
  check: (answer: string) => Promise<string>;
}

/** Asks a person; resolves with an answer that passed its check. */
export type Ask = (question: Question) => Promise<string>;

/** A way to ask, where a person sits at a terminal. Questions go to stderr, so that stdout stays with the results. */
export function openAsk({ stdin, stderr, env }: Streams, signal: AbortSignal): Ask | undefined {
  if (stdin?.isTTY !== true || stderr.isTTY !== true || isSet(env['CI'])) return undefined;
  return async ({ text, suggestion, words, check }) => {
    const prompt = createInterface({
      input: stdin,
      output: stderr,
      completer: (line: string): [string[], string] => [complete(line, words), line],
    });
    prompt.once('SIGINT', () => prompt.close());
    const closed = new Promise<never>((_, reject) => {
      prompt.once('close', () =>
        reject(
          new LgdError('ABORTED', 'the questions were left unanswered.', {
            mend: 'Run lgdistill init again, or give the answers as options',
          }),
        ),
      );
    });
    closed.catch(() => undefined); // an answer closes it too
    try {
      for (;;) {
        const given = await Promise.race([
          prompt.question(`${text}${suggestion === '' ? '' : ` [${suggestion}]`}: `, { signal }),
          closed,
        ]);
        const answer = given.trim() === '' ? suggestion : given.trim();
        try {
          stderr.write(`  ${await check(answer)}\n`);
          return answer;
        } catch (error) {
          if (!(error instanceof LgdError)) throw error;
          stderr.write(`  ${error.message}\n`);
        }
      }
    } finally {
      prompt.close();
    }
  };
}

/** Known words and paths that begin like the line. */
function complete(line: string, words: readonly string[]): string[] {
  const folder = line.endsWith('/') ? line : dirname(line);
  let paths: string[] = [];
  try {
    paths = readdirSync(folder, { withFileTypes: true }).map((entry) => {
      const path = line.startsWith('./') || folder !== '.' ? join(folder, entry.name) : entry.name;
      return `${line.startsWith('./') && !path.startsWith('./') ? './' : ''}${path}${entry.isDirectory() ? '/' : ''}`;
    });
  } catch {
    // no such folder: no paths to complete
  }
  return [...words, ...paths].filter((candidate) => candidate.startsWith(line));
}
