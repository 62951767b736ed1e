/** The native programs that hold CUDA kernels to their CPU twins, as they are and under compute-sanitizer. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Report } from './report.js';

interface Result {
  status: number | null;
  lines: string[];
  seconds: number;
  late: boolean;
}

/** Programs that run, by the numbers of their process groups. */
const running = new Set<number>();
function kill(group: number): void {
  try {
    process.kill(-group, 'SIGKILL');
  } catch {
    // nobody is left in it
  }
}
process.on('exit', () => running.forEach(kill));

/**
 * Runs a program, at most so many seconds: then it is killed with all that it started in its group, since
 * compute-sanitizer is only the parent of what uses the GPU. What left the group may keep the pipes and is not waited
 * for; nor is a process that hangs in the driver and cannot be killed.
 */
export function run(
  command: string,
  args: readonly string[],
  limit: number,
  show: (text: string) => void = () => {},
  variables: Readonly<Record<string, string>> = {},
): Promise<Result> {
  const from = performance.now();
  const env = { ...process.env, ...variables };
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env });
  const streams = [child.stdout, child.stderr];
  let output = '';
  for (const stream of streams) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      show(chunk.toString());
    });
  }
  return new Promise((resolve, reject) => {
    const group = child.pid;
    if (group === undefined) return void child.on('error', reject);
    running.add(group);
    let late = false;
    const finish = () => {
      clearTimeout(timer);
      for (const stream of streams) stream.destroy();
      child.unref();
      running.delete(group);
      resolve({
        status: child.exitCode,
        lines: output.trim().split('\n'),
        seconds: (performance.now() - from) / 1000,
        late,
      });
    };
    let timer = setTimeout(() => {
      late = true;
      kill(group);
      timer = setTimeout(finish, child.exitCode === null ? 5000 : 0);
    }, 1000 * limit);
    child.on('error', reject);
    child.on('exit', () => late && finish());
    child.on('close', finish);
  });
}

/**
 * How a program of test/native/cuda_ops/progress.h ends where a check lost the GPU (under compute-sanitizer, which
 * found something then: as that ends), and its words: what it goes on with.
 */
const lost = 3;
const found = 99;
const goOn = /^LOST .*; go on with (.+)$/u;
const mostStarts = 20;

/**
 * After a fault, which is heard of when the host waits: the check that lost the GPU once more and alone, each launch
 * waited for, so that CUDA's error is that of the kernel at fault. A line that says which.
 */
async function nameLaunch(command: string, args: readonly string[], from: number, limit: number): Promise<string> {
  const rows = args.indexOf('--rows'); // they have this check already
  const kept = rows < 0 ? args : [...args.slice(0, rows), ...args.slice(rows + 2)];
  const { lines, late } = await run(command, [...kept, `only=${from - 1}`], limit, undefined, {
    CUDA_LAUNCH_BLOCKING: '1',
    LGDISTILL_GRAPHS: '0',
  });
  const launch = lines.map((line) => /launching .* failed: .*$/u.exec(line)?.[0]).find((text) => text !== undefined);
  const [other] = lines.filter((line) => /^(FAIL|LOST|!) /u.test(line));
  return `NAMED with each launch waited for: ${launch ?? other ?? (late ? 'it does not end' : 'alone it does not fail')}`;
}

/**
 * A program to its end, started again behind every check that lost the GPU, so that one fault costs one check. All of
 * it within the limit.
 */
export async function runToEnd(
  command: string,
  args: readonly string[],
  limit: number,
  show?: (text: string) => void,
): Promise<Result & { starts: number }> {
  const lines: string[] = [];
  let seconds = 0;
  let more: string[] = [];
  for (let starts = 1; ; starts++) {
    const result = await run(command, [...args, ...more], limit - seconds, show);
    lines.push(...result.lines);
    seconds += result.seconds;
    const words = result.lines.map((line) => goOn.exec(line)?.[1]).find((text) => text !== undefined);
    const fault = /^LOST (?!.*: it takes longer than ).*; go on with from=(\d+)/u;
    const [, from] = (result.status === lost && result.lines.map((line) => fault.exec(line)).find(Boolean)) || [];
    if (from !== undefined && limit - seconds > 1) {
      const begun = performance.now();
      const line = await nameLaunch(command, args, Number(from), Math.min(60, limit - seconds));
      seconds += (performance.now() - begun) / 1000;
      lines.push(line);
      show?.(`${line}\n`);
    }
    if (
      (result.status !== lost && result.status !== found) ||
      words === undefined ||
      starts === mostStarts ||
      seconds >= limit
    )
      return { ...result, lines, seconds, starts };
    more = words.split(' ');
  }
}

const programs = ['cuda_ops', 'cuda_augment', 'cuda_semantic', 'cuda_streams'];
const folder = (): string | undefined => process.env['GPU_CHECK_PROGRAMS'];

function pathOf(report: Report, part: string, program: string): string | undefined {
  const path = join(folder() ?? '', program);
  if (existsSync(path)) return path;
  report.check(part, program, `${path} is not there: not run`, false);
  return undefined;
}

/**
 * Of programs of many checks: what one of them may take on a GPU, where a kernel that hangs would take all the time.
 */
const aCheck = ({ small }: Report) => (small ? [] : ['seconds=60']);

/** A program's checks: a row for each line that tells of one, and one for its closing line. */
async function checkProgram(
  report: Report,
  part: string,
  program: string,
  args: readonly string[],
  limit: number,
): Promise<void> {
  const path = pathOf(report, part, program);
  if (path === undefined) return;
  // A row for each as it comes, so that one that is stopped leaves them; but the closing line gets more words.
  let [rest, closing] = ['', ''];
  const tell = (line: string) => report.check(part, program, line, /^(SKIPPED|MEASURED|NAMED) /u.test(line));
  const take = (line: string) => {
    if (closing !== '') tell(closing);
    closing = line;
    if (!/^(FAIL|LOST|NAMED|SKIPPED|MEASURED) /u.test(line)) return;
    tell(line);
    closing = '';
  };
  const show = (text: string) => {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop()!;
    lines.filter((line) => line !== '').forEach(take);
  };
  report.doing = program;
  const { status, seconds, late } = await runToEnd(path, args, report.small ? 5 * limit : limit, show);
  report.doing = '';
  if (rest !== '') take(rest);
  report.check(
    part,
    program,
    `${closing === '' ? `ended with status ${status}` : closing} (${seconds.toFixed(0)} s${late ? ', then stopped' : ''})`,
    status === 0 && !late,
  );
}

/** Every kernel on ragged shapes. A failed check is a line of its own. */
export async function checkKernels(report: Report): Promise<void> {
  for (const program of programs) {
    // one in 40 is enough to try the harness; test/native/emulated-programs.test.ts runs them all
    if (program === 'cuda_ops')
      await checkProgram(
        report,
        'ops',
        program,
        [...(report.small ? ['small', 'every=40'] : []), ...aCheck(report)],
        200,
      );
    else await checkProgram(report, 'ops', program, program === 'cuda_streams' && !report.small ? ['measure'] : [], 40);
  }
}

/** Dense convolutions alone: for the other kind of products. */
export async function checkConvolutions(report: Report): Promise<void> {
  await checkProgram(
    report,
    'ops',
    'cuda_ops',
    [...(report.small ? ['small', 'every=20'] : []), ...aCheck(report), 'conv'],
    100,
  );
}

/**
 * bench/kernels, which prints its table and writes its rows itself; $GPU_CHECK_TENSOR_TF is the measured rate of the
 * tensor cores.
 */
export async function measureKernels(report: Report, only: string): Promise<void> {
  const path = pathOf(report, 'kernels', 'kernels');
  if (path === undefined) return;
  const { GPU_CHECK_ROWS: rows, GPU_CHECK_TENSOR_TF: rate } = process.env;
  const args = [
    ...(report.small ? ['small'] : []),
    ...aCheck(report),
    ...(only === '' ? [] : ['--only', only]),
    ...(rows ? ['--rows', rows] : []),
    ...(rate ? ['--tensor-tf', rate] : []),
  ];
  const limit = (only === '' ? 220 : 100) * (report.small ? 5 : 1);
  const { status, lines, seconds, late, starts } = await runToEnd(path, args, limit, (text) =>
    process.stdout.write(text),
  );
  const good = status === 0 && !late && starts === 1;
  report.check(
    'kernels',
    'the whole program',
    `${lines.at(-1)} (${seconds.toFixed(0)} s${late ? ', then stopped' : ''})`,
    good,
  );
}

/**
 * With their options: memcheck would take calls that fail for faults, too; but an event that is asked about too early
 * does (cudaErrorNotReady), and so does what a driver refuses and the library goes around. The programs judge those.
 */
const tools = [['memcheck', '--report-api-errors', 'no'], ['racecheck']] as const;

/**
 * The programs on small shapes under compute-sanitizer's tools, beside each other: what they find are accesses outside
 * of allocations, and threads of a block that use shared memory unordered. They run tens of times slower, so that of
 * cuda_ops a share is taken; one that needs longer than its time is said to have.
 */
export async function sanitize(report: Report): Promise<void> {
  const sanitizer = process.env['GPU_CHECK_SANITIZER'];
  if (sanitizer === undefined || sanitizer === '') {
    console.log('SKIPPED sanitize: there is no compute-sanitizer here');
    report.row({ part: 'sanitize', name: 'compute-sanitizer', value: 'not there: not run' });
    return;
  }
  const limit = Number(process.env['GPU_CHECK_SANITIZER_SECONDS'] ?? 60);
  const shares: Record<string, number> = { memcheck: 5, racecheck: 20 };
  await Promise.all(
    tools.flatMap(([tool, ...options]) =>
      [...programs, 'kernels'].map(async (program) => {
        const path = pathOf(report, 'sanitize', program);
        if (path === undefined) return;
        const share = program === 'cuda_ops' ? shares[tool] : undefined;
        const sizes = program === 'kernels' ? ['small'] : share === undefined ? [] : ['small', `every=${share}`];
        const args = ['--tool', tool, ...options, '--error-exitcode', String(found), path, ...sizes];
        const { status, lines, seconds, late, starts } = await runToEnd(sanitizer, args, limit);
        const summary = lines
          .filter((line) => /ERROR SUMMARY|RACECHECK SUMMARY|checks|failed$|^LOST/.test(line))
          .map((line) => line.replace(/^=+ ?/, ''))
          .join('; ');
        if (lines.some((line) => /Device not supported/u.test(line))) {
          console.log(
            `SKIPPED ${program} under ${tool}: compute-sanitizer does not support this GPU, or not in this container`,
          );
          report.row({ part: 'sanitize', name: `${program} under ${tool}`, value: 'device not supported: not run' });
          return;
        }
        const first = lines.find((line) => /^=+ *(Invalid|Error|Race|Warning|Program hit)/.test(line));
        const name = `${program} under ${tool}${share === undefined ? '' : `, one check in ${share}`}`;
        if (late)
          report.check(
            'sanitize',
            name,
            `${first ?? 'nothing found'} in ${limit} s, then stopped`,
            first === undefined && starts === 1,
          );
        else
          report.check(
            'sanitize',
            name,
            `${summary}${first === undefined ? '' : `; ${first}`} (${seconds.toFixed(0)} s)`,
            status === 0 && starts === 1,
          );
      }),
    ),
  );
}
