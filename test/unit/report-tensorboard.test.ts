import { readFileSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { encodeEvents } from '../../lib/report/event-file.js';
import type { RunRecord } from '../../lib/report/read-run.js';
import { writeTensorBoard } from '../../lib/report/tensorboard.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { allRuns } from '../fixtures/runs.js';

const folder = temporaryFolder();

/** CRC32C bit by bit (polynomial 0x1EDC6F41, reflected), apart from the library that the writer takes. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

const unmask = (masked: number): number => {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
};

/** The records of a TFRecord file, after checking both checksums of each. */
function readRecords(bytes: Buffer): Buffer[] {
  const records: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(unmask(bytes.readUInt32LE(at + 8))).toBe(crc32c(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(unmask(bytes.readUInt32LE(at + 12 + length))).toBe(crc32c(data));
    records.push(data);
    at += 16 + length;
  }
  return records;
}

type Field = number | Buffer;

/** The fields of a protobuf message by number: varints and fixed numbers as numbers, the rest as bytes. */
function readMessage(bytes: Buffer): Map<number, Field[]> {
  const fields = new Map<number, Field[]>();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag & 7;
    let value: Field;
    if (wire === 0) value = varint();
    else if (wire === 1) [value, at] = [bytes.readDoubleLE(at), at + 8];
    else if (wire === 5) [value, at] = [bytes.readFloatLE(at), at + 4];
    else {
      expect(wire).toBe(2);
      const length = varint();
      [value, at] = [bytes.subarray(at, at + length), at + length];
    }
    fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), value]);
  }
  return fields;
}

const scalarsOf = (event: Map<number, Field[]>): Record<string, number> =>
  Object.fromEntries(
    (readMessage(event.get(5)![0] as Buffer).get(1) ?? []).map((value) => {
      const message = readMessage(value as Buffer);
      return [String(message.get(1)![0]), message.get(2)![0] as number];
    }),
  );

describe('writeTensorBoard', () => {
  it('knows the published check value of CRC32C', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  });

  it('writes every number of a run, and replaces what it wrote before', async () => {
    const run = join(folder, 'run');
    await mkdir(run);
    const time = 1_790_000_000_500;
    const lines = [
      { type: 'step', step: 1, epoch: 0.5, loss: 4.5, learningRate: 0.03, time },
      { type: 'evaluation', step: 300_000_000_000, epoch: 1, student: { top1: 0.25, top5: 0.5 }, time: time + 1000 },
    ];
    await writeFile(join(run, 'config.json'), '{}');
    await writeFile(join(run, 'metrics.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    const [written] = await writeTensorBoard([run], join(folder, 'events'));
    await writeTensorBoard([run], join(folder, 'events'));
    expect(await readdir(join(folder, 'events', 'run'))).toEqual(['events.out.tfevents.1790000000.lgdistill']);
    expect(written).toMatchObject({ run: 'run', scalars: 5 });

    const [version, step, evaluation, ...rest] = readRecords(readFileSync(written!.file)).map(readMessage);
    expect(rest).toEqual([]);
    expect([version!.get(1), String(version!.get(3)![0])]).toEqual([[1_790_000_000.5], 'brain.Event:2']);
    expect([step!.get(1), step!.get(2)]).toEqual([[1_790_000_000.5], [1]]);
    expect(scalarsOf(step!)).toEqual({
      'train/epoch': 0.5,
      'loss/total': 4.5,
      'train/learning_rate': Math.fround(0.03),
    });
    expect([evaluation!.get(1), evaluation!.get(2)]).toEqual([[1_790_000_001.5], [300_000_000_000]]);
    expect(scalarsOf(evaluation!)).toEqual({ 'zero_shot/student_top1': 0.25, 'zero_shot/student_top5': 0.5 });
  });

  it('makes the events of millions of lines one by one, as they are written', async () => {
    const run = join(folder, 'long');
    await mkdir(run);
    await writeFile(join(run, 'config.json'), '{}');
    await writeFile(
      join(run, 'metrics.jsonl'),
      [1, 2].map((step) => `${JSON.stringify({ type: 'step', step, loss: 1 })}\n`).join(''),
    );
    const [{ steps, ...read }] = (await allRuns([run])) as [RunRecord];
    const loss = vi.fn(() => 1);
    const watched = {
      ...read,
      steps: {
        ...steps,
        loss: new Proxy(steps.loss, {
          get: (column, place) =>
            typeof place === 'string' && /^\d+$/u.test(place) ? loss() : (Reflect.get(column, place) as unknown),
        }),
      },
    };
    const events = encodeEvents(watched);
    events.next(); // the version
    for (const taken of [1, 2]) {
      events.next();
      expect(loss).toHaveBeenCalledTimes(taken);
    }
    expect(events.next().done).toBe(true);
  });

  it('writes what a run without times and metrics has: its version record', async () => {
    const run = join(folder, 'fresh');
    await mkdir(run);
    await writeFile(join(run, 'config.json'), '{}');
    const [written] = await writeTensorBoard([run], join(folder, 'events'));
    expect(written!.scalars).toBe(0);
    expect(readRecords(readFileSync(written!.file))).toHaveLength(1);
  });
});
