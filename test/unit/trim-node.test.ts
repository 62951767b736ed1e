import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../fixtures/folder.js';
import { runProgram } from '../native/emulated.js';

const script = fileURLToPath(new URL('../../scripts/trim-node.mjs', import.meta.url));
const folder = temporaryFolder();
const whole = process.execPath;

const say = (node: string, what: string) => {
  const { status, stdout } = spawnSync(node, ['-e', `console.log(${what})`], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], LC_ALL: 'C' },
  });
  return [status, stdout];
};

it('leaves a Node that speaks English, and no other language', () => {
  const trimmed = join(folder, 'node');
  expect(runProgram(process.execPath, [script, whole, trimmed], {}).status).toBe(0);
  expect(statSync(trimmed).size).toBe(statSync(whole).size);
  for (const what of [
    '(1234567.8).toLocaleString("en"), new Intl.ListFormat("en-GB").format(["a", "b", "c"])',
    '"e\\u0301".normalize("NFC").length, "b".localeCompare("a"), "\\u0130".toLowerCase().length',
    'new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from("h\\u00e4\\u00df")), new Date(0).toLocaleString()',
    'new Intl.ListFormat("xx").format(["a", "b"]), Intl.DateTimeFormat().resolvedOptions().locale',
  ])
    expect([what, ...say(trimmed, what)]).toEqual([what, ...say(whole, what)]);
  const german = 'new Intl.ListFormat("de").format(["a", "b"])';
  // a Node with English alone, or with the system's data, has nothing that could be left out
  const { icu_small: isSmall, icu_gyp_path: built } = process.config.variables as Record<string, unknown>;
  if (isSmall !== true && built === 'tools/icu/icu-generic.gyp') {
    expect(say(whole, german)).toEqual([0, 'a und b\n']);
    expect(say(trimmed, german)).not.toEqual([0, 'a und b\n']);
  }
}, 120_000);

it('copies what has no such data', async () => {
  const [plain, copy] = [join(folder, 'plain'), join(folder, 'copy')];
  await writeFile(plain, '#!/bin/sh\necho CmnD is no header\n');
  expect(runProgram(process.execPath, [script, plain, copy], {}).status).toBe(0);
  expect(say(copy, '')).toEqual([0, 'CmnD is no header\n']);
});
