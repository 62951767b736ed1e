/** The lines of log.txt that are read back: where a run started, on what, and how it ended. Every other line is for people alone. */
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

export function startLine({ step, lastStep, images, broken, device: { name, kind, threads }, version }: StartFacts): string {
  return `start at step ${step} of ${lastStep}, ${images} images, ${broken} broken ones left out; lgdistill ${version} on ${name}${kind === 'cpu' ? `, ${threads} threads` : ''}`;
}

export function endLine(done: boolean, step: number): string {
  return `${done ? 'done' : 'interrupted'} at step ${step}`;
}

/** What {@link readRunLog} finds. */
export interface RunLog {
  /** How the run stands: 'unfinished' covers a run that goes on and one that was killed. */
  outcome: 'done' | 'interrupted' | 'failed' | 'unfinished';
  /** Seconds from each start to the last line before the next, summed: images were decoded before. */
  seconds: number;
  /** Times it was started. */
  starts: number;
  /** Of the last start, as what follows; undefined before the first. */
  images: number | undefined;
  broken: number | undefined;
  device: string | undefined;
  version: string | undefined;
}

const startPattern = /^start at step \d+ of \d+, (?<images>\d+) images, (?<broken>\d+) broken ones left out; lgdistill (?<version>\S+) on (?<device>.+)$/u;
const endPattern = /^(?<outcome>done|interrupted) at step \d+$|^(?<failed>failed): /u;

/** Reads the text of a log.txt; lines that are torn or of another kind are passed over. */
export function readRunLog(text: string): RunLog {
  const log: RunLog = { outcome: 'unfinished', seconds: 0, starts: 0, images: undefined, broken: undefined, device: undefined, version: undefined };
  let from = NaN;
  let last = NaN;
  const close = () => {
    if (last > from) log.seconds += (last - from) / 1000;
  };
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    const time = Date.parse(line.slice(0, space));
    if (space < 0 || Number.isNaN(time)) continue;
    const message = line.slice(space + 1);
    const start = startPattern.exec(message)?.groups;
    if (start !== undefined) {
      close();
      from = time;
      Object.assign(log, { outcome: 'unfinished', starts: log.starts + 1, images: Number(start['images']), broken: Number(start['broken']), device: start['device'], version: start['version'] });
    }
    last = time;
    const end = endPattern.exec(message)?.groups;
    if (end !== undefined) log.outcome = (end['failed'] ?? end['outcome']) as RunLog['outcome'];
  }
  close();
  return log;
}
