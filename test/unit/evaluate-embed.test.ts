import { expect, it } from 'vitest';
import type { Device } from '../../lib/device.js';
import { LgdError } from '../../lib/errors.js';
import { teacherEmbedder } from '../../lib/evaluate/embed.js';
import type { NativeTeacher } from '../../lib/models/index.js';

it('frees a teacher’s encoder at once where its images find no memory', () => {
  let held = 0;
  const compile = () => {
    held++;
    return {
      device: {},
      makeImages: () => {
        throw new LgdError('OUT_OF_MEMORY', 'the device has no memory left.');
      },
      dispose: () => held--,
    };
  };
  const teacher = { kind: 'native', resolution: 32, compile } as unknown as NativeTeacher;
  expect(() => teacherEmbedder({} as Device, teacher, { batch: 1 })).toThrow('no memory left');
  expect(held).toBe(0);
});
