/**
 * Where a command's words go. With `--json`, stdout carries JSON documents alone, and what is meant for people goes to
 * stderr.
 */
export interface Terminal {
  readonly json: boolean;
  readonly debug: boolean;
  /** Whether stderr is watched by a person: a terminal that can move its cursor, and not a CI job's log. */
  readonly interactive: boolean;
  /** Prints text for people, with a line break. */
  say(text: string): void;
  /** Prints a document for machines, one a line; nothing without `--json`. */
  emit(document: unknown): void;
  /** Prints to stderr. */
  warn(text: string): void;
  /** Marks text for {@link say}, where colours are wanted. */
  bold(text: string): string;
  red(text: string): string;
  /** Marks text for {@link warn}. */
  warnRed(text: string): string;
}

export interface Streams {
  /** Absent where nobody can be asked. */
  stdin?: NodeJS.ReadableStream & { isTTY?: boolean };
  stdout: NodeJS.WritableStream & { isTTY?: boolean };
  stderr: NodeJS.WritableStream & { isTTY?: boolean };
  env: NodeJS.ProcessEnv;
}

export function openTerminal(
  { stdout, stderr, env }: Streams,
  { json, debug }: { json: boolean; debug: boolean },
): Terminal {
  const people = json ? stderr : stdout;
  const mark = (code: number, stream: Streams['stdout']) => (text: string) =>
    wantsColours(stream, env) ? `\u001b[${code}m${text}\u001b[0m` : text;
  return {
    json,
    debug,
    interactive: stderr.isTTY === true && env['TERM'] !== 'dumb' && !isSet(env['CI']),
    say: (text) => void people.write(`${shown(text)}\n`),
    emit: (document) => void (json && stdout.write(`${JSON.stringify(document)}\n`)),
    warn: (text) => void stderr.write(`${shown(text)}\n`),
    bold: mark(1, people),
    red: mark(31, people),
    warnRed: mark(31, stderr),
  };
}

/**
 * Text with control characters of names of files, which could change what a terminal shows, as JSON has them; line
 * ends, tabs and colours stay.
 */
function shown(text: string): string {
  return text.replace(/[^\P{Cc}\n\t](?:\[\d+m)?/gu, (found) =>
    found.startsWith('\u001b[') ? found : `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}${found.slice(1)}`,
  );
}

/**
 * FORCE_COLOR decides where it is set (0 or false: none); else colours go to a terminal that can show them, unless
 * NO_COLOR is set.
 */
function wantsColours({ isTTY }: Streams['stdout'], env: NodeJS.ProcessEnv): boolean {
  if (env['FORCE_COLOR'] !== undefined) return env['FORCE_COLOR'] === '' || isSet(env['FORCE_COLOR']);
  return isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
}

/** Is a switch of the environment on? */
export function isSet(value: string | undefined): boolean {
  return value !== undefined && value !== '' && value !== '0' && value !== 'false';
}
