/**
 * The lines of log.txt that are read back: where a run started, on what, and how it ended. Every other line is for
 * people alone.
 */
import { counted } from '../counted.js';
import type { DeviceInfo } from '../device.js';

/** What a run's log says when it starts or continues. */
export interface StartFacts {
  /** Steps already done. */
  step: number;
  lastStep: number;
  /** Training images, and how many more could not be decoded. */
  images: number;
  broken: number;
  device: Pick<DeviceInfo, 'name' | 'kind' | 'threads'>;
  version: string;
}

export function startLine({
  step,
  lastStep,
  images,
  broken,
  device: { name, kind, threads },
  version,
}: StartFacts): string {
  return `start at step ${step} of ${lastStep}, ${counted(images, 'image')}, ${counted(broken, 'broken one')} left out; lgdistill ${version} on ${name}${kind === 'cpu' ? `, ${counted(threads, 'thread')}` : ''}`;
}

export function endLine(done: boolean, step: number): string {
  return `${done ? 'done' : 'interrupted'} at step ${step}`;
}

/** What {@link readRunLog} finds. */
export interface RunLog {
  /** How the run stands: 'unfinished' covers a run that goes on and one that was killed. */
  outcome: 'done' | 'interrupted' | 'failed' | 'unfinished';
  /** From each start to the last line before the next, in milliseconds since 1970: images were decoded before. */
  sessions: readonly { from: number; to: number }[];
  /** Seconds of all sessions. */
  seconds: number;
  /** Of the last start, as what follows; undefined before the first. */
  images: number | undefined;
  device: string | undefined;
  version: string | undefined;
}

const startPattern =
  /^start at step \d+ of \d+, (?<images>\d+) images?, \d+ broken ones? left out; lgdistill (?<version>\S+) on (?<device>.+)$/u;
const endPattern = /^(?<outcome>done|interrupted) at step \d+$|^(?<failed>failed): /u;

/** Reads the text of a log.txt; lines that are torn or of another kind are passed over. */
export function readRunLog(text: string): RunLog {
  const sessions: { from: number; to: number }[] = [];
  const log: RunLog = {
    outcome: 'unfinished',
    sessions,
    seconds: 0,
    images: undefined,
    device: undefined,
    version: undefined,
  };
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    const time = Date.parse(line.slice(0, space));
    if (space < 0 || Number.isNaN(time)) continue;
    const message = line.slice(space + 1);
    const start = startPattern.exec(message)?.groups;
    if (start !== undefined) {
      sessions.push({ from: time, to: time });
      Object.assign(log, {
        outcome: 'unfinished',
        images: Number(start['images']),
        device: start['device'],
        version: start['version'],
      });
    }
    const session = sessions.at(-1);
    if (session !== undefined) session.to = Math.max(session.from, time);
    const end = endPattern.exec(message)?.groups;
    if (end !== undefined) log.outcome = (end['failed'] ?? end['outcome']) as RunLog['outcome'];
  }
  log.seconds = sessions.reduce((sum, { from, to }) => sum + (to - from) / 1000, 0);
  return log;
}

/**
 * Milliseconds of training up to a moment in milliseconds since 1970, pauses between sessions left out. Asked for one
 * moment after the other it is quick, however many sessions there are.
 * @param begun what is counted from where the log tells no session
 */
export function trainingTime({ sessions }: Pick<RunLog, 'sessions'>, begun: number): (time: number) => number {
  if (sessions.length === 0) return (time) => time - begun;
  let [current, before] = [0, 0];
  return (time) => {
    if (time < sessions[current]!.from) [current, before] = [0, 0];
    for (; current + 1 < sessions.length && time >= sessions[current + 1]!.from; current++)
      before += sessions[current]!.to - sessions[current]!.from;
    const { from, to } = sessions[current]!;
    const last = current + 1 === sessions.length; // which may go on after the log's last line
    return before + Math.max(0, (last ? time : Math.min(time, to)) - from);
  };
}
