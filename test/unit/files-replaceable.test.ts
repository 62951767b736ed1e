import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { checkFree } from '../../lib/config/init.js';
import { checkPackPlace } from '../../lib/data/pack/writer.js';
import { beginsAsSafetensors, type FileKind } from '../../lib/files/file-kind.js';
import { checkReplaceable } from '../../lib/files/replaceable.js';
import { manifestFile, manifestFormat } from '../../lib/files/manifest.js';
import { encodeSafetensors } from '../../lib/files/safetensors.js';
import { writeFileAtomically } from '../../lib/files/write-file.js';
import { encodeOnnx } from '../../lib/onnx/format.js';
import { checkNamesFile } from '../../lib/text/names-file.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const graph = { name: 'g', docString: '', node: [], initializer: [], input: [], output: [] };
const files: Record<string, string | Uint8Array> = {
  safetensors: Buffer.concat(encodeSafetensors([], {})),
  onnx: encodeOnnx({
    irVersion: 7n,
    producerName: 'x',
    producerVersion: '1',
    docString: '',
    graph,
    opsetImport: [{ domain: '', version: 14n }],
    metadataProps: [],
  }),
  report: '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="lgdistill 0.1.0">',
  pack: Buffer.concat([Buffer.from('LGDPACK1'), Buffer.alloc(56)]),
  journal: '{"format":"lgdistill-pack-journal","kind":"original"}\n',
  text: 'by hand, over many hours\n',
  page: '<!doctype html>\n<html><head><title>A page</title></head></html>',
  image: Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0]),
};
for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
writeFileSync(join(folder, 'empty'), '');
const ring = join(folder, 'ring'); // cannot be looked at
symlinkSync(ring, ring);
mkdirSync(join(folder, 'folder'));

describe.each<[FileKind, string]>([
  ['safetensors', 'a safetensors file'],
  ['onnx', 'an ONNX file'],
  ['report', 'a report'],
  ['pack', 'a pack'],
  ['journal', 'the journal of a pack'],
])('%s', (kind, words) => {
  test.each([kind, 'empty', 'nowhere'])('may be written over: %s', async (name) => {
    await checkReplaceable(join(folder, name), kind, { option: 'to' });
  });

  test.each(Object.keys(files).filter((name) => name !== kind))('may not be written over: %s', async (name) => {
    const path = join(folder, name);
    await expect(checkReplaceable(path, kind, { option: 'to' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
      found: path,
      message: expect.stringContaining(`which is not ${words}`) as string,
    });
  });

  test('may not be written over: folder', async () => {
    await expect(checkReplaceable(join(folder, 'folder'), kind, { option: 'to' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      message: expect.stringContaining('is a folder') as string,
    });
    await expect(checkReplaceable(ring, kind, { option: 'to' })).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining(`cannot write ${ring}`) as string,
    });
  });
});

test('a header of millions of ids is one, too', () => {
  const first = Buffer.alloc(9, '{');
  first.writeBigUInt64LE(400_000_000n);
  expect(beginsAsSafetensors(first)).toBe(true);
  expect(beginsAsSafetensors(Buffer.from('{"names":'))).toBe(false);
});

test('what a file is made from is not written over, by whatever name', async () => {
  const from = join(folder, 'safetensors');
  const [link, other] = [join(folder, 'link'), join(folder, 'other')];
  symlinkSync(from, link);
  linkSync(from, other);
  for (const path of [from, link, other])
    await expect(
      checkReplaceable(path, 'safetensors', { option: 'to', inputs: [join(folder, 'nowhere'), from] }),
    ).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'to', found: path });
});

test('nor is a file of a checkpoint, where one of the same kind may be', async () => {
  const run = join(folder, 'run');
  const checkpoint = join(run, 'step-1');
  mkdirSync(checkpoint, { recursive: true });
  symlinkSync('step-1', join(run, 'last'));
  const mark = { bytes: files['safetensors']!.length, sha256: '' };
  for (const name of ['model', 'another'])
    writeFileSync(join(checkpoint, `${name}.safetensors`), files['safetensors']!);
  writeFileSync(
    join(checkpoint, manifestFile),
    JSON.stringify({
      format: manifestFormat,
      version: '0.1.0',
      step: 1,
      epoch: 1,
      best: null,
      files: { 'model.safetensors': mark },
    }),
  );
  const check = (name: string) => checkReplaceable(join(run, 'last', name), 'safetensors', { option: 'to' });
  await check('another.safetensors');
  await expect(check('model.safetensors')).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'to',
    message: expect.stringContaining('a part of a checkpoint') as string,
  });
});

test('nor a pipe or a device', async () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const writer = openSync(pipe, constants.O_RDWR); // who reads the pipe after all waits for nothing
  writeFileSync(writer, files['report']!);
  for (const path of [pipe, '/dev/null']) {
    await expect(checkReplaceable(path, 'report', { option: 'to' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      found: path,
      message: expect.stringContaining('is no regular file') as string,
    });
    await expect(checkPackPlace(path, true)).rejects.toMatchObject({ option: 'output', found: path });
    await expect(checkNamesFile(path, { overwrite: true })).rejects.toMatchObject({ option: 'write', found: path });
    await expect(checkFree(path, true)).rejects.toMatchObject({ code: 'BAD_CONFIG', option: 'to', found: path });
  }
  await expect(writeFileAtomically(pipe, 'x')).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
  expect(lstatSync(pipe).isFIFO()).toBe(true);
  closeSync(writer);
});

test('a pack to be overwritten is no folder', async () => {
  await expect(checkPackPlace(join(folder, 'folder'), true)).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'output',
  });
});

test('looking at the place of a pack leaves no folder behind', async () => {
  await checkPackPlace(join(folder, 'new', 'deep', 'x.pack'), false);
  expect(existsSync(join(folder, 'new'))).toBe(false);
  await expect(checkPackPlace(join(folder, 'text', 'x.pack'), false)).rejects.toMatchObject({ code: 'NOT_WRITABLE' });
});

test("nor is a run's own configuration, of one student or of several", async () => {
  const runs = join(folder, 'runs');
  const write = (file: string, text: string) => {
    mkdirSync(dirname(join(runs, file)), { recursive: true });
    writeFileSync(join(runs, file), text);
  };
  write('one/config.json', '{}');
  await checkFree(join(runs, 'one', 'config.json'), true);
  write('one/metrics.jsonl', '');
  symlinkSync(join(runs, 'one', 'config.json'), join(runs, 'linked.json'));
  write('two/config.json', '{"student": {"name": "a, b"}}');
  write('two/a/config.json', '{}');
  await checkFree(join(runs, 'two', 'config.json'), true);
  write('two/b/config.json', '{}');
  for (const file of ['one/config.json', 'linked.json', 'two/config.json'])
    await expect(checkFree(join(runs, file), true)).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
      found: join(runs, file),
      message: expect.stringContaining('what a run was begun with') as string,
    });
});
