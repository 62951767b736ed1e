import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { TextTokenizer, importTokenizers } from '../../lib/text/tokenizers.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let encoder: ClipTextEncoder;
beforeAll(async () => {
  encoder = await ClipTextEncoder.load(tinyClip);
});
afterAll(() => encoder.dispose());

function distance(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(
    a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.reduce((sum, value) => sum + value * value, 0),
  );
}

test('tells its id, sizes and token counts', () => {
  expect(encoder.id).toBe('tiny-clip');
  expect(encoder.embeddingSize).toBe(256);
  expect(encoder.maxTokens).toBe(32);
  expect(encoder.countTokens('')).toBe(2);
  expect(encoder.countTokens('cat cat cat')).toBe(5);
});

test('embeddings are finite, not normalised, and the same every time', async () => {
  const texts = ['a photo of a cat.', 'a photo of a dog.', ''];
  const first = await encoder.encode(texts);
  expect(first.length).toBe(3 * 256);
  expect(first.every(Number.isFinite)).toBe(true);
  expect(Math.hypot(...first.subarray(0, 256))).toBeGreaterThan(2);
  expect(await encoder.encode(texts)).toEqual(first);
  expect(await encoder.encode([])).toEqual(new Float32Array(0));
});

test('a text has the same embedding alone and padded in a batch, wherever it stands', async () => {
  const small = await ClipTextEncoder.load(tinyClip, { batchSize: 3 });
  const texts = [
    'a cat',
    'a very long photo of a dog with a cat and an emu in the street',
    'dog',
    'a red truck on a road',
    'a',
    'a cat',
    'the quick fox',
  ];
  const together = await small.encode(texts);
  for (const [i, text] of texts.entries()) {
    const alone = await encoder.encode([text]);
    expect(distance(alone, together.subarray(i * 256, (i + 1) * 256))).toBeLessThan(1e-5);
  }
  expect(distance(together.subarray(0, 256), together.subarray(256, 512))).toBeGreaterThan(0.1);
});

test('places texts where they belong: a cat is nearer to kitten than to a truck', async () => {
  const rows = await encoder.encode(['a photo of a cat.', 'a photo of a kitten.', 'a photo of a truck.']);
  const unit = [0, 1, 2].map((i) => {
    const row = rows.subarray(i * 256, (i + 1) * 256);
    const norm = Math.hypot(...row);
    return row.map((value) => value / norm);
  });
  const cosine = (i: number, j: number) => unit[i]!.reduce((sum, value, k) => sum + value * unit[j]![k]!, 0);
  expect(cosine(0, 1)).toBeGreaterThan(cosine(0, 2));
});

test('a text too long is cut but keeps its end token', async () => {
  const words = 'cat dog fish bird horse frog ship deer '.repeat(6).trim().split(' ');
  const fits = words.slice(0, 30).join(' ');
  expect(encoder.countTokens(fits)).toBe(32);
  const [cut, whole] = [await encoder.encode([words.join(' ')]), await encoder.encode([fits])];
  expect(encoder.countTokens(words.join(' '))).toBeGreaterThan(32);
  expect(distance(whole, cut)).toBeLessThan(1e-5);
});

test('reports progress, lets timers run, and stops when told to', async () => {
  const texts = Array.from({ length: 200 }, (_, i) => `a photo of number ${i}`);
  const seen: number[] = [];
  await encoder.encode(texts, { onProgress: (done, total) => seen.push(done / total) });
  expect(seen.length).toBe(Math.ceil(200 / 32));
  expect(seen.at(-1)).toBe(1);
  await expect(ClipTextEncoder.load(tinyClip, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  await expect(encoder.encode(texts, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 1);
  await expect(
    encoder.encode(Array.from({ length: 3000 }, () => texts).flat(), { signal: controller.signal }),
  ).rejects.toMatchObject({ code: 'ABORTED' });
});

test('after dispose it says so', async () => {
  const other = await ClipTextEncoder.load(tinyClip);
  await other.dispose();
  await other.dispose();
  await expect(other.encode(['cat'])).rejects.toMatchObject({ code: 'DISPOSED' });
});

test('loads a folder given by a relative path', async () => {
  const before = process.cwd();
  try {
    process.chdir(join(tinyClip, '..'));
    expect((await ClipTextEncoder.load('./tiny-clip')).id).toBe('tiny-clip');
    expect((await ClipTextEncoder.load('tiny-clip')).id).toBe('tiny-clip');
  } finally {
    process.chdir(before);
  }
});

test('says what is wrong with a folder that will not do', async () => {
  await expect(ClipTextEncoder.load('./nowhere')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  await expect(ClipTextEncoder.load(folder)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining('onnx/text_model.onnx') as string,
  });
  const broken = join(folder, 'broken');
  cpSync(tinyClip, broken, { recursive: true, filter: (path) => !/visual|vision|text_model/u.test(path) });
  mkdirSync(join(broken, 'onnx'), { recursive: true });
  writeFileSync(join(broken, 'onnx/text_model.onnx'), 'not a model');
  await expect(ClipTextEncoder.load(broken)).rejects.toMatchObject({ code: 'BAD_MODEL' });
  cpSync(join(tinyClip, 'onnx/text_model.onnx'), join(broken, 'onnx/text_model.onnx'));
  writeFileSync(
    join(broken, 'tokenizer.json'),
    JSON.stringify({
      ...(JSON.parse(readFileSync(join(tinyClip, 'tokenizer.json'), 'utf8')) as object),
      post_processor: null,
    }),
  );
  await expect(ClipTextEncoder.load(broken)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining('no token at the end') as string,
  });
  writeFileSync(join(broken, 'tokenizer.json'), '{');
  await expect(ClipTextEncoder.load(broken)).rejects.toMatchObject({ code: 'BAD_MODEL' });
  rmSync(join(broken, 'tokenizer.json'));
  await expect(ClipTextEncoder.load(broken)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining('tokenizer.json') as string,
  });
});

test.each([
  [
    'whose merges are pairs, as they are written now',
    (model: Tokenizer['model']) => ({ ...model, merges: model.merges.map((merge) => merge.split(' ')) }),
  ],
  [
    'that does not say what it is, as the first ones',
    ({ merges, vocab, unk_token, end_of_word_suffix }: Tokenizer['model']) => ({
      merges,
      vocab,
      unk_token,
      end_of_word_suffix,
      continuing_subword_prefix: '',
    }),
  ],
])('reads a tokenizer %s', async (name, change) => {
  const other = join(folder, name.slice(0, 9));
  mkdirSync(other);
  cpSync(join(tinyClip, 'tokenizer_config.json'), join(other, 'tokenizer_config.json'));
  const content = JSON.parse(readFileSync(join(tinyClip, 'tokenizer.json'), 'utf8')) as Tokenizer;
  writeFileSync(join(other, 'tokenizer.json'), JSON.stringify({ ...content, model: change(content.model) }));
  const [own, changed] = [await TextTokenizer.load(tinyClip), await TextTokenizer.load(other)];
  for (const text of ["a dog's déjà vu, 3 o’clock", 'UNUSUAL  words'])
    expect(changed.encode(text, 77)).toEqual(own.encode(text, 77));
});

test('refuses a token that the vocabulary has no number for', async () => {
  const damaged = join(folder, 'damaged vocabulary');
  mkdirSync(damaged);
  cpSync(join(tinyClip, 'tokenizer_config.json'), join(damaged, 'tokenizer_config.json'));
  const content = JSON.parse(readFileSync(join(tinyClip, 'tokenizer.json'), 'utf8')) as Tokenizer;
  for (const id of ['320', -1, 1.5]) {
    writeFileSync(
      join(damaged, 'tokenizer.json'),
      JSON.stringify({
        ...content,
        model: { ...content.model, vocab: { ...(content.model.vocab as object), 'q</w>': id } },
      }),
    );
    const tokenizer = await TextTokenizer.load(damaged);
    expect(() => tokenizer.encode('q', 77), String(id)).toThrow(
      expect.objectContaining({
        code: 'BAD_MODEL',
        message: expect.stringContaining('no number for token 2') as string,
      }) as Error,
    );
  }
});

test('refuses merges that are no pairs, and takes no list for a number of tokens', async () => {
  const damaged = join(folder, 'damaged merges');
  mkdirSync(damaged);
  const [content, config] = ['tokenizer.json', 'tokenizer_config.json'].map(
    (file) => JSON.parse(readFileSync(join(tinyClip, file), 'utf8')) as Tokenizer,
  );
  const write = (file: string, value: object) => writeFileSync(join(damaged, file), JSON.stringify(value));
  write('tokenizer_config.json', { ...config, model_max_length: [[16]] });
  for (const merge of [null, 5, {}, [1, 2]]) {
    write('tokenizer.json', { ...content, model: { ...content!.model, merges: [...content!.model.merges, merge] } });
    await expect(TextTokenizer.load(damaged)).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringContaining('its merge 1714 is no pair of texts') as string,
    });
  }
  write('tokenizer.json', content!);
  expect((await TextTokenizer.load(damaged)).maxTokens).toBeUndefined();
});

interface Tokenizer {
  model: Record<'vocab' | 'unk_token' | 'end_of_word_suffix', unknown> & { merges: string[] };
}

test('says what to type where transformers cannot be loaded', async () => {
  const load = () => Promise.reject(new Error("Cannot find package '@xenova/transformers'"));
  await expect(importTokenizers(load)).rejects.toMatchObject({
    code: 'DEPENDENCY_MISSING',
    mend: expect.stringContaining('npm install --ignore-scripts') as string,
  });
});

test('gives what @xenova/transformers gives with its own classes', async () => {
  const { AutoTokenizer, CLIPTextModelWithProjection, env } = await import('@xenova/transformers');
  const before = { ...env };
  Object.assign(env, { localModelPath: join(tinyClip, '..'), allowRemoteModels: false });
  try {
    const [tokenizer, model] = [
      await AutoTokenizer.from_pretrained('tiny-clip'),
      await CLIPTextModelWithProjection.from_pretrained('tiny-clip', { quantized: false }),
    ];
    const texts = ['a photo of a cat.', 'an ox', 'déjà vu, 3 o’clock'];
    const { text_embeds: expected } = (await model(tokenizer(texts, { padding: true }))) as {
      text_embeds: { data: Float32Array };
    };
    expect(distance(expected.data, await encoder.encode(texts))).toBeLessThan(1e-5);
  } finally {
    Object.assign(env, before);
  }
});
