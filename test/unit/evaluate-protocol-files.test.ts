import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeProtocol } from '../../lib/evaluate/protocol-files.js';
import type { StudentInfo } from '../../lib/runs/student-file.js';
import { temporaryFolder } from '../fixtures/folder.js';

it('lists of images have one a line, whatever their names', async () => {
  const folder = temporaryFolder();
  const ids = ['a/1.jpg', 'a/two\nlines.jpg', 'a/"3".jpg'];
  const info = {} as StudentInfo;
  await writeProtocol(
    folder,
    {
      protocol: 'semi',
      file: 'student.safetensors',
      info,
      names: [],
      images: [],
      results: [],
      remarks: [],
      seconds: 1,
    },
    new Map([['labels-1', ids]]),
  );
  expect(await readFile(join(folder, 'labels-1.txt'), 'utf8')).toBe('a/1.jpg\n"a/two\\nlines.jpg"\na/"3".jpg\n');
});
