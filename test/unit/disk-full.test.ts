import { statfs } from 'node:fs/promises';
import { expect, test, vi } from 'vitest';
import { diskFullError } from '../../lib/files/disk-full.js';

vi.mock('node:fs/promises', { spy: true });

test.each([
  ['no number of files is left', { files: 400, ffree: 0 }, 'the disk takes 0 more files (of 400).', 'Remove files'],
  ['there are such numbers', { files: 400, ffree: 300 }, '(4.0 of its 8.0 MiB are free, 1.0', 'Free some room'],
  [
    'there is no room, either',
    { files: 400, ffree: 0, bavail: 0 },
    '(0.0 of its 8.0 MiB are free',
    'Free 1.0 MiB more',
  ],
  ['the file system numbers no files', { files: 0, ffree: 0 }, '(4.0 of its 8.0 MiB are free, 1.0', 'Free some room'],
])('a disk with room that says it is full, where %s', async (_, numbers, message, mend) => {
  vi.mocked(statfs).mockResolvedValue({ bsize: 2 ** 20, blocks: 8, bfree: 4, bavail: 4, ...numbers } as never);
  const cause = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
  expect(await diskFullError('run/checkpoints', { run: 'run', cause, neededBytes: 2 ** 20 })).toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining(message) as string,
    mend: expect.stringMatching(`^${mend}.*go on with \`lgdistill resume run\``) as string,
  });
});
