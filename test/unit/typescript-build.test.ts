import { mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { removeUnwritten, timesOf } from '../../scripts/typescript.mjs';
import { temporaryFolder } from '../fixtures/folder.js';

it('what a build has not written is removed, by whatever clock the files have their times', () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, 'part'));
  const write = (name: string, hour: number) => {
    writeFileSync(join(folder, name), '');
    utimesSync(join(folder, name), hour * 3600, hour * 3600);
  };
  for (const name of ['left.js', 'part/left.js', 'kept.js']) write(name, 7);
  const before = timesOf(folder);
  for (const name of ['kept.js', 'part/new.js']) write(name, 8);
  removeUnwritten(folder, before);
  expect(readdirSync(folder, { recursive: true }).sort()).toEqual(['kept.js', 'part', join('part', 'new.js')]);
  expect(timesOf(join(folder, 'none'))).toEqual(new Map());
});
