import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { root } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { ensureBuilt } from './built.js';

const folder = temporaryFolder();

describe('what keeps the program from starting is an error with a code', () => {
  test("files of the program that Node's permission model does not allow", async () => {
    const flag = process.allowedNodeEnvironmentFlags.has('--permission') ? '--permission' : '--experimental-permission';
    const program = join(await ensureBuilt(), 'dist', 'cli', 'start.cjs');
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--no-warnings', flag, `--allow-fs-read=${program}`, program, 'doctor', '--json'],
      { cwd: folder, encoding: 'utf8' },
    );
    expect(stderr).toMatch(
      /^error BAD_FILE\n {2}Node's permission model does not allow FileSystemRead of .*\.\n {2}-> Allow Node to read.*\n$/u,
    );
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'BAD_FILE' } });
    expect(status).toBe(1);
  });

  test('a package that is not there', async () => {
    const copy = join(folder, 'not-whole');
    cpSync(join(await ensureBuilt(), 'dist'), join(copy, 'dist'), { recursive: true }); // beside no node_modules
    copyFileSync(join(root, 'package.json'), join(copy, 'package.json'));
    const { status, stderr } = spawnSync(process.execPath, [join(copy, 'dist', 'cli', 'start.cjs'), 'doctor'], {
      encoding: 'utf8',
    });
    expect(stderr).toMatch(
      /^error DEPENDENCY_MISSING\n {2}the installation is not whole: .*'commander'.*\.\n {2}-> Install .*\n$/u,
    );
    expect(status).toBe(1);
  });
});

describe('paths whose bytes are not UTF-8, which Node would take for others', () => {
  /** Runs `pack` in a folder, with one of a picture beside it; the shell knows the folder's and the pack's bytes. */
  async function pack(name: string, script: string) {
    const place = join(folder, name);
    mkdirSync(join(place, 'pictures'), { recursive: true });
    copyFileSync(join(root, 'docs', 'report.png'), join(place, 'pictures', 'one.png'));
    const program = join(await ensureBuilt(), 'dist', 'cli', 'start.cjs');
    const { status, stderr } = spawnSync(
      'sh',
      ['-c', script, 'sh', process.execPath, program, 'pack', join(place, 'pictures'), '--output'],
      { cwd: place, encoding: 'utf8' },
    );
    return { status, stderr, left: readdirSync(place, 'latin1').sort() };
  }

  test('the folder in which it is started', async () => {
    const { status, stderr, left } = await pack(
      'started',
      'cd="$(printf "a\\377")"; mkdir "$cd" && cd "$cd" && exec "$@" made.pack',
    );
    expect(stderr).toMatch(/^error BAD_OPTION\n {2}the path of the folder in which this was started is not UTF-8: /u);
    expect(status).toBe(2);
    expect(left).toEqual(['a\u00ff', 'pictures']);
  });

  test('an argument', async () => {
    const { status, stderr, left } = await pack('argument', 'exec "$@" "$(printf "a\\377.pack")"');
    expect(stderr).toMatch(/^error BAD_OPTION\n {2}an argument is not UTF-8: /u);
    expect(status).toBe(2);
    expect(left).toEqual(['pictures']);
  });

  test('a name that has the replacement character itself is none of them', async () => {
    const { status, stderr, left } = await pack(
      'replacement',
      'cd="$(printf "\\357\\277\\275")"; mkdir "$cd" && cd "$cd" && exec "$@" "../$cd.pack"',
    );
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(left).toContain('\u00ef\u00bf\u00bd.pack');
  });
});
