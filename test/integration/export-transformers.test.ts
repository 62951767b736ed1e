import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { CLIPVisionModelWithProjection, AutoProcessor, env, RawImage } from '@xenova/transformers';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { openDevice } from '../../lib/device.js';
import { referenceEmbeddings } from '../../lib/export/compare.js';
import { readExportSource } from '../../lib/export/source.js';
import { exportStudent } from '../../lib/export/student.js';
import * as writing from '../../lib/files/write-file.js';
import { loadTeacher } from '../../lib/models/index.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { madeUpBank, writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes, shapeNames } from '../fixtures/tiny.js';

vi.mock('../../lib/files/write-file.js', { spy: true });

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const [from, to] = [at('student.safetensors'), at('model')];
beforeAll(async () => {
  await writeMadeUpStudent(from, 'mobilenet_v3_small');
  await madeUpBank().save(at('bank.safetensors'));
  await drawShapes(at('images'), { count: 1 });
});

test('the folder has model, input and text bank', async () => {
  const result = await exportStudent({ from, to, format: 'transformers', images: at('images') });
  expect(result).toMatchObject({ file: to, head: 'keep', comparison: { images: 4, folder: at('images') } });
  expect(readdirSync(to, { recursive: true }).sort()).toEqual([
    'bank.safetensors',
    'config.json',
    'onnx',
    join('onnx', 'vision_model.onnx'),
    'preprocessor_config.json',
    'text_bank.json',
  ]);
  const bank = madeUpBank();
  const text = JSON.parse(readFileSync(join(to, 'text_bank.json'), 'utf8')) as {
    names: string[];
    embeddings: number[][];
    hash: string;
    temperature: number;
  };
  expect(text).toMatchObject({ names: bank.names, hash: bank.hash, temperature: 0.2, encoder: 'made up' });
  expect(Float32Array.from(text.embeddings.flat())).toEqual(bank.data);
  expect((await TextualSemanticsBank.load(join(to, 'bank.safetensors'))).hash).toBe(bank.hash);
  expect(readdirSync(folder).filter((name) => /\.(?:part|tmp|old)$/u.test(name))).toEqual([]);
});

test('@xenova/transformers loads it and gives the embeddings of the engine', async () => {
  [env.localModelPath, env.allowRemoteModels] = [dirname(to), false];
  const processor = await AutoProcessor.from_pretrained(basename(to), {});
  const model = await CLIPVisionModelWithProjection.from_pretrained(basename(to), { quantized: false });
  const images = await Promise.all([...shapeNames].sort().map((name) => RawImage.read(at('images', name, '0.png'))));
  const { image_embeds: found } = (await model(await processor(images))) as {
    image_embeds: { dims: number[]; data: Float32Array };
  };
  expect(found.dims).toEqual([4, 24]);
  const { embeddings } = await referenceEmbeddings(await readExportSource(from), at('images'), undefined);
  const largest = Math.max(...embeddings.map(Math.abs));
  found.data.forEach((value, i) => expect(Math.abs(value - embeddings[i]!) / largest, `value ${i}`).toBeLessThan(1e-3));
});

test('it is a teacher', async () => {
  using device = await openDevice('cpu');
  await using teacher = await loadTeacher(to, { device });
  expect(teacher).toMatchObject({
    kind: 'onnx',
    id: 'model',
    embeddingSize: 24,
    resolution: 64,
    mean: [0.48, 0.46, 0.41],
    std: [0.27, 0.26, 0.28],
  });
});

test('an earlier export is replaced, anything else stays', async () => {
  writeFileSync(join(to, 'stale.txt'), '');
  await exportStudent({ from, to, format: 'transformers' });
  expect(existsSync(join(to, 'stale.txt'))).toBe(false);
  mkdirSync(at('other'));
  await exportStudent({ from, to: at('other'), format: 'transformers' }); // empty
  mkdirSync(at('mine'));
  writeFileSync(at('mine', 'config.json'), '{}');
  await expect(exportStudent({ from, to: at('mine'), format: 'transformers' })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'to',
    mend: 'Choose another place (on the command line: --output)',
  });
  expect(readdirSync(at('mine'))).toEqual(['config.json']);
  await expect(exportStudent({ from, to, format: 'transformers', head: 'drop' })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'head',
  });
  await expect(exportStudent({ from, to, format: 'transformers', classifier: true })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'classifier',
  });
});

describe('files of the student that is exported', () => {
  test('an input in an earlier export stays', async () => {
    await exportStudent({ from, to: at('kept'), format: 'transformers' });
    const inside = at('kept', 'student.safetensors');
    await exportStudent({ from, to: inside });
    mkdirSync(at('kept', 'images'));
    for (const options of [{ from: inside }, { from, images: at('kept', 'images') }]) {
      await expect(exportStudent({ ...options, to: at('kept'), format: 'transformers' })).rejects.toMatchObject({
        code: 'BAD_OPTION',
        option: 'to',
        message: expect.stringContaining('to replace this folder would remove ') as string,
      });
    }
    expect(existsSync(inside)).toBe(true);
  });

  test('a link stays, and the folder that it leads to is replaced', async () => {
    const [link, behind] = [at('link'), at('behind')];
    mkdirSync(behind);
    symlinkSync(behind, link);
    const stopped = exportStudent({ from, to: link, format: 'transformers', signal: AbortSignal.abort() });
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect(readdirSync(behind)).toEqual([]);
    for (const path of [link, link, `${link}/`]) {
      await exportStudent({ from, to: path, format: 'transformers' });
      expect(lstatSync(link).isSymbolicLink()).toBe(true);
      expect(readdirSync(behind)).toContain('preprocessor_config.json');
      rmSync(join(behind, 'preprocessor_config.json'));
    }
    writeFileSync(join(behind, 'config.json'), '{}');
    await expect(exportStudent({ from, to: link, format: 'transformers' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
    });
  });

  test('what came there meanwhile stays', async () => {
    const place = at('empty at first');
    mkdirSync(place);
    const exported = exportStudent({ from, to: place, format: 'transformers' });
    await vi.waitFor(() => expect(readdirSync(folder).some((name) => name.startsWith('.empty at first'))).toBe(true));
    writeFileSync(join(place, 'notes.txt'), 'mine');
    await expect(exported).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'to', found: place });
    expect(readdirSync(place)).toEqual(['notes.txt']);
    expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  test('a link that leads to nothing yet stays, and the export goes where it leads', async () => {
    for (const [format, name] of [
      ['transformers', 'folder'],
      ['onnx', 'file.onnx'],
      ['lgdistill', 'file.safetensors'],
    ] as const) {
      const link = at(`to-${name}`);
      symlinkSync(join('later', name), link);
      expect(await exportStudent({ from, to: link, format })).toMatchObject({ file: link });
      expect(lstatSync(link).isSymbolicLink()).toBe(true);
      expect(existsSync(at('later', name))).toBe(true);
    }
    expect(readdirSync(at('later')).sort()).toEqual(['file.onnx', 'file.safetensors', 'folder']);
  });

  test.each([
    ['a name that is too long', at('n'.repeat(300)), 'Choose a shorter one'],
    ['below a file', join(from, 'x'), 'Choose another place, or move that file'],
    ['where the system lets nothing be made', '/proc/none', 'Choose another place'],
  ])('a place that cannot be is refused as one: %s', async (_, to, mend) => {
    for (const format of ['transformers', 'timm', 'mmseg'] as const)
      await expect(exportStudent({ from, to, format })).rejects.toMatchObject({ code: 'NOT_WRITABLE', mend });
  });

  test('no text bank takes their place, by whatever path', async () => {
    symlinkSync(folder, at('linked'));
    for (const options of [
      { to: at('one.safetensors'), bank: at('linked', 'one.safetensors') },
      { to: at('banked'), format: 'transformers', bank: at('banked', 'bank.safetensors') },
      { to: at('banked'), format: 'transformers', bank: at('linked', 'banked', 'onnx', 'vision_model.onnx') },
      {
        to: at('banked'),
        format: 'transformers',
        quantize: 'int8',
        images: at('images'),
        bank: at('banked', 'onnx', 'vision_model_quantized.onnx'),
      },
    ] as const) {
      await expect(exportStudent({ from, ...options })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'bank' });
      expect(existsSync(options.to)).toBe(false);
    }
    const bank = at('linked', 'banked', 'own', 'bank.safetensors');
    for (let i = 0; i < 2; i++) {
      await exportStudent({ from, to: at('banked'), format: 'transformers', bank });
      expect(readdirSync(at('banked', 'own'))).toEqual(['bank.safetensors']);
    }
  });
});

test('where a disk is mounted is told at once, as nothing takes its place', async () => {
  await expect(exportStudent({ from, to: '/proc', format: 'transformers' })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'to',
    found: '/proc',
    mend: 'Choose a folder in it (on the command line: --output)',
  });
});

test('an earlier export is replaced by a path through it, unless it is the current folder', async () => {
  for (const to of [at('round'), `${at('round')}/.`, `${at('round')}/../round`, `${at('new')}/../round`]) {
    expect(await exportStudent({ from, to, format: 'transformers' })).toMatchObject({ file: to });
    expect(readdirSync(at('round'))).toContain('config.json');
  }
  expect(readdirSync(folder).filter((name) => /^new$|round\./u.test(name))).toEqual([]);
  mkdirSync(at('there', 'deep'), { recursive: true });
  symlinkSync(at('there', 'deep'), at('down'));
  await exportStudent({ from, to: `${at('down')}/../beside`, format: 'transformers' });
  expect(readdirSync(at('there')).sort()).toEqual(['beside', 'deep']);
  const current = vi.spyOn(process, 'cwd').mockReturnValue(at('round', 'onnx'));
  try {
    await expect(exportStudent({ from, to: at('round'), format: 'transformers' })).rejects.toMatchObject({
      code: 'BAD_OPTION',
      option: 'to',
    });
    current.mockImplementation(() => {
      throw new Error('ENOENT: process.cwd failed with error no such file or directory');
    });
    await exportStudent({ from, to: at('round'), format: 'transformers' }); // from a folder that was removed
  } finally {
    current.mockRestore();
  }
});

test.each([
  ['preprocessor_config.json', '0.26', '0.27'],
  ['text_bank.json', '"dog"', '"dogs"'],
  ['text_bank.json', '"embeddings":[[', '"embeddings":[[9,'],
  ['text_bank.json', '{', ''],
])('a folder whose %s differs is not left behind', async (file, old, fresh) => {
  const { writeFileAtomically } = await vi.importActual<typeof writing>('../../lib/files/write-file.js');
  let spoilt = false;
  vi.mocked(writing.writeFileAtomically).mockImplementation((path, content) => {
    if (basename(path) !== file) return writeFileAtomically(path, content);
    const text = [...(content as Iterable<string>)].join('');
    spoilt = text.includes(old);
    return writeFileAtomically(path, text.replace(old, fresh));
  });
  await expect(exportStudent({ from, to: at('spoilt'), format: 'transformers' })).rejects.toMatchObject({
    code: 'EXPORT_FAILED',
  });
  vi.resetAllMocks();
  expect(spoilt).toBe(true);
  expect(readdirSync(folder).filter((name) => name.includes('spoilt'))).toEqual([]);
});
