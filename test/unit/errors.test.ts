import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, it, vi } from 'vitest';
import { importSharp } from '../../lib/data/sharp.js';
import { makeFolder } from '../../lib/files/make-folder.js';
import { errorCodes, LgdError, readError, writeError, type ErrorCode } from '../../lib/errors.js';
import { importOnnxRuntime } from '../../lib/onnx/session.js';
import { smallDisk } from '../fixtures/small-disk.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const filesBelow = (folder: string, pattern: RegExp) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => pattern.test(name))
    .map((name) => `${folder}/${name}`);

/**
 * Codes whose general mend says enough: those that a program's own arrays and calls cause, where the message names the
 * argument, the row, or what is allowed.
 */
const saidEnough: ReadonlySet<string> = new Set([
  'ABORTED',
  'BAD_IMAGE',
  'BAD_SHAPE',
  'DISPOSED',
  'NATIVE_ERROR',
  'NON_FINITE',
  'OUT_OF_MEMORY',
  'ZERO_EMBEDDING',
] satisfies ErrorCode[]);

interface Construction {
  where: string;
  code: string | undefined;
  details: string[];
}

/** Every `new LgdError(...)` of a file, with the names of the details it gives. */
function constructionsIn(file: string): Construction[] {
  const source = ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.Latest, true);
  const found: Construction[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isNewExpression(node) && node.expression.getText() === 'LgdError') {
      const [code, , details] = node.arguments ?? [];
      const names =
        details && ts.isObjectLiteralExpression(details)
          ? details.properties.map((property) => property.name?.getText() ?? '...')
          : [];
      found.push({
        where: `${file}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`,
        code: code && ts.isStringLiteral(code) ? code.text : undefined,
        details: names,
      });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

describe('every error says what to do', () => {
  const constructions = filesBelow('lib', /\.ts$/u).flatMap(constructionsIn);

  it('whatever its code', () => {
    expect(errorCodes.length).toBeGreaterThan(20);
    for (const code of errorCodes) expect(new LgdError(code, 'x.').mend, code).toMatch(/^[A-Z].{10,}[^.]$/u);
  });

  it('by its own words, where files, options, devices and the machine are at fault', () => {
    expect(constructions.length).toBeGreaterThan(150);
    const silent = constructions.filter(
      ({ code, details }) =>
        code !== undefined &&
        !saidEnough.has(code) &&
        !details.includes('mend') &&
        !(code === 'BAD_OPTION' && details.includes('allowed')),
    );
    expect(silent.map(({ where, code }) => `${where} ${code}`)).toEqual([]);
  });

  it('also when it comes from the addon', () => {
    const literals = filesBelow('native', /\.(?:h|cpp|cu|cuh|inl)$/u).flatMap((file) =>
      [...readFileSync(join(root, file), 'utf8').matchAll(/"([A-Z]+(?:_[A-Z]+)+|DISPOSED)"/gu)].map(
        ([, code]) => code!,
      ),
    );
    const codes = new Set(literals.filter((code) => !/^(?:LGDISTILL|CUDA)_/u.test(code)));
    expect(codes.size).toBeGreaterThan(8);
    expect([...codes].filter((code) => !(errorCodes as readonly string[]).includes(code))).toEqual([]);
  });
});

describe('instanceof', () => {
  class Late extends LgdError {}
  const plain = [
    new Error('x'),
    Object.assign(new Error('x'), { name: 'LgdError', code: 'BAD_FILE' }),
    undefined,
    null,
    'BAD_FILE',
    {},
  ];

  it('holds across copies of the package, which import and require load', async () => {
    vi.resetModules();
    const other = (await import('../../lib/errors.js')).LgdError;
    expect(other).not.toBe(LgdError);
    const [here, there] = [new LgdError('BAD_FILE', 'x.'), new other('BAD_FILE', 'x.')];
    for (const error of [here, there, new Late('BAD_FILE', 'x.')])
      for (const type of [LgdError, other, Error]) expect(error instanceof type).toBe(true);
    for (const value of plain) expect(value instanceof LgdError).toBe(false);
    expect(Object.keys(there)).toEqual(Object.keys(here)); // the mark is not among what is shown
    expect(there).toEqual(here);
  });

  it('is the usual one for classes that extend it', () => {
    class Later extends Late {}
    const late = new Late('BAD_FILE', 'x.');
    expect([
      late instanceof Late,
      new Later('BAD_FILE', 'x.') instanceof Late,
      new LgdError('BAD_FILE', 'x.') instanceof Late,
      late instanceof Later,
    ]).toEqual([true, true, false, false]);
  });
});

it('a mend of its own ends the message, a general one stands beside it', () => {
  expect(
    new LgdError('BAD_OPTION', 'out of range.', {
      option: 'train.epochs',
      found: 0,
      allowed: 'from 1',
      mend: 'Train for one epoch',
    }),
  ).toMatchObject({
    message: 'train.epochs: out of range. Found: 0. Allowed: from 1. Train for one epoch.',
    mend: 'Train for one epoch',
  });
  const general = new LgdError('DISPOSED', 'the device was disposed of.');
  expect(general.message).toBe('the device was disposed of.');
  expect(general.toJSON()['mend']).toBe(general.mend);
});

it('tells of a value that JSON leaves out', () => {
  const { message } = new LgdError('BAD_OPTION', 'not a number.', { found: { toJSON: () => undefined } });
  expect(message).toBe('not a number. Found: an object.');
});

it.each([
  ['EACCES', 'permission is denied', 'Choose a folder this user may write to'],
  ['ENOENT', 'a folder on the way does not exist', 'Make the folder /some/where, or choose another path'],
  ['ENOTDIR', 'a part of the path is not a folder', 'Choose a path through folders only'],
  ['EEXIST', 'there is a file in its place', 'Choose another place, or move that file'],
  ['ENOSPC', 'the disk is full', 'Free some space, or choose another output folder'],
  ['EIO', 'the disk fails', 'Check the disk, or choose another output folder'],
  ['ECONNABORTED', 'the mount is gone', 'Mount it again, or choose another folder'],
  [
    'EPERM',
    'permission is denied',
    'Choose a folder this user may write to; on a mounted bucket, mount it with a cache of writes',
  ],
  ['ETXTBSY', 'i/o error', 'Choose another place, and check the disk'],
])('a failed write says what to do about %s', (code, why, mend) => {
  const cause = Object.assign(new Error('i/o error'), { code });
  expect(writeError('/some/where/file', cause)).toMatchObject({
    code: 'NOT_WRITABLE',
    mend,
    message: `cannot write /some/where/file: ${why}. ${mend}.`,
  });
});

const disk = smallDisk('a disk without numbers of files', 2 ** 23, { files: 2 });
it.skipIf(disk === undefined)('a disk that has room for bytes and takes no more files is not told as full', () => {
  const write = (name: string) => writeFileSync(join(disk!, name), 'x');
  write('first');
  let cause: unknown;
  try {
    write('second');
  } catch (error) {
    cause = error;
  }
  expect(writeError(join(disk!, 'second'), cause)).toMatchObject({
    message: expect.stringContaining('the disk takes no more files') as string,
    mend: expect.stringContaining('Remove files') as string,
  });
});

it('a package that is there, and that Jest does not let in, is not to be installed', async () => {
  const cause = Object.assign(
    new TypeError('A dynamic import callback was invoked without --experimental-vm-modules'),
    { code: 'ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING_FLAG' },
  );
  await expect(importOnnxRuntime(() => Promise.reject(cause))).rejects.toMatchObject({
    code: 'DEPENDENCY_MISSING',
    mend: 'Start Jest with NODE_OPTIONS=--experimental-vm-modules',
  });
  await expect(importSharp(() => Promise.reject(new Error('x')))).rejects.toMatchObject({
    mend: expect.stringContaining('npm install') as string,
  });
});

it('sharp that is there says why it does not load, and is not to be installed', async () => {
  const failing = (reason: string) =>
    importSharp(() =>
      Promise.reject(new Error(`Could not load the "sharp" module\n${reason}\nPossible solutions:\n- ...`)),
    );
  const unmapped = 'ERR_DLOPEN_FAILED: /x/sharp.node: failed to map segment from shared object';
  await expect(failing(unmapped)).rejects.toMatchObject({
    message: expect.stringContaining(`the "sharp" module: ${unmapped}. Install it on`) as string,
    mend: expect.stringContaining('noexec') as string,
  });
  await expect(failing('ERR_DLOPEN_DISABLED: Loading addons is disabled.')).rejects.toMatchObject({
    message: expect.stringContaining('is disabled. Run Node') as string,
    mend: expect.stringContaining('--no-addons') as string,
  });
});

it('sharp is its CommonJS half, which Node 20.9 loads and no Node warns of', async () => {
  expect(await importSharp()).toBe(createRequire(import.meta.url)('sharp'));
});

describe('readError', () => {
  const failed = (code: string) => Object.assign(new Error(`${code}: failed`), { code });

  it.each([
    ['EISDIR', 'cannot read x: it is a folder.', 'Give the file to read'],
    ['EACCES', 'cannot read x: permission is denied.', 'Check its permissions'],
    ['ECONNABORTED', 'cannot read x: the mount is gone.', 'Check the disk, or the mount'],
    ['ELOOP', 'cannot read x: its symbolic links lead round in a circle.', 'Mend those links, or give another path'],
    ['EWHAT', 'cannot read x: EWHAT: failed.', 'Check its permissions, and the disk'],
  ])('%s is said in words', (code, message, mend) => {
    expect(readError('x', failed(code))).toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(message) as string,
      mend,
    });
  });

  it('keeps an error of this package, or what it says under the code that is asked for', () => {
    const pipe = new LgdError('BAD_FILE', 'x is a pipe.', { mend: 'Give a file' });
    expect(readError('x', pipe)).toBe(pipe);
    const other = readError('x', pipe, { code: 'BAD_DATASET', option: 'dense.annotations' });
    expect(other).toMatchObject({ code: 'BAD_DATASET', option: 'dense.annotations', mend: 'Give a file' });
    expect(other.message).toBe('dense.annotations: x is a pipe. Give a file.');
  });
});

it('what splits texts between signs is not made before a text is long', async () => {
  const made = vi.spyOn(Intl, 'Segmenter');
  vi.resetModules();
  const { describe: say } = await import('../../lib/errors.js');
  say('short');
  expect(made).not.toHaveBeenCalled();
  made.mockRestore();
  expect(say('a'.repeat(300))).toMatch(/a\.\.\."?$/u);
});

it('what cannot be made in a folder that is there is told from a folder that is missing', async () => {
  await expect(makeFolder('/proc/none/inside')).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: 'cannot write /proc/none: nothing can be made there. Choose another place.',
  });
  expect(writeError('/none/file', Object.assign(new Error('x'), { code: 'ENOENT' }))).toMatchObject({
    mend: 'Make the folder /none, or choose another path',
  });
});
