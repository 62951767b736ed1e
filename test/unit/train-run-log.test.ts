import { describe, expect, it } from 'vitest';
import { endLine, readRunLog, startLine, trainingTime } from '../../lib/runs/run-log.js';

const device = { name: 'AMD EPYC, 9B14', kind: 'cpu', threads: 2 } as const;
const start = (step: number) => startLine({ step, lastStep: 40, images: 294, broken: 3, device, version: '0.1.0' });
const at = (seconds: number, message: string) =>
  `${new Date(Date.UTC(2026, 0, 1) + 1000 * seconds).toISOString()} ${message}\n`;

describe('readRunLog', () => {
  it('reads back what a run says of itself', () => {
    const text = at(0, start(0)) + at(1, 'device memory: planned 1 MiB') + at(30.5, endLine(true, 40));
    expect(readRunLog(text)).toEqual({
      outcome: 'done',
      seconds: 30.5,
      sessions: [{ from: Date.UTC(2026, 0, 1), to: Date.UTC(2026, 0, 1) + 30500 }],
      images: 294,
      device: 'AMD EPYC, 9B14, 2 threads',
      version: '0.1.0',
    });
  });

  it('says one of what there is one of, and reads that back', () => {
    const one = startLine({
      step: 0,
      lastStep: 1,
      images: 1,
      broken: 1,
      device: { ...device, threads: 1 },
      version: '0.1.0',
    });
    expect(one).toMatch(/ 1 image, 1 broken one left out; .*, 1 thread$/u);
    expect(readRunLog(at(0, one))).toMatchObject({ images: 1, device: 'AMD EPYC, 9B14, 1 thread' });
  });

  it('leaves out the time between sessions, and the threads of a GPU', () => {
    const gpu = startLine({
      step: 20,
      lastStep: 40,
      images: 294,
      broken: 0,
      device: { name: 'NVIDIA H100', kind: 'cuda', threads: 16 },
      version: '0.2.0',
    });
    const text = at(0, start(0)) + at(10, endLine(false, 20)) + at(1000, gpu) + at(1005, 'step 30: checkpoint');
    expect(readRunLog(text)).toMatchObject({
      outcome: 'unfinished',
      seconds: 15,
      device: 'NVIDIA H100',
      version: '0.2.0',
    });
    expect(readRunLog(text + at(1006, 'failed: the loss is NaN')).outcome).toBe('failed');
  });

  it('counts training time without the pauses, also of moments that its last line is before, and in any order', () => {
    const text =
      at(0, start(0)) +
      at(10, endLine(false, 20)) +
      at(1000, start(20)) +
      at(1005, 'step 30: checkpoint') +
      at(5000, start(30));
    const begin = Date.UTC(2026, 0, 1);
    const trained = trainingTime(readRunLog(text), NaN);
    const secondsAt = (seconds: number) => trained(begin + 1000 * seconds) / 1000;
    expect([-1, 0, 4, 10, 500, 1000, 1003, 1009, 5000, 5007, 3].map(secondsAt)).toEqual([
      0, 0, 4, 10, 10, 10, 13, 15, 15, 22, 3,
    ]);
    expect(trained(NaN)).toBeNaN();
    expect(trainingTime(readRunLog(''), begin)(begin + 2000)).toBe(2000);
  });

  it('passes over torn lines', () => {
    const text = `\ufffd\n${at(0, start(0))}${at(2, endLine(false, 5))}2026-01-0`;
    expect(readRunLog(text)).toMatchObject({ outcome: 'interrupted', seconds: 2, images: 294 });
    expect(readRunLog('')).toEqual({
      outcome: 'unfinished',
      seconds: 0,
      sessions: [],
      images: undefined,
      device: undefined,
      version: undefined,
    });
  });
});
