import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { loadTextEncoder } from '../../lib/text/load-encoder.js';
import { NativeTextEncoder } from '../../lib/text/native-encoder.js';
import { TextTokenizer } from '../../lib/text/tokenizers.js';
import { devicesUnderTest } from '../devices.js';
import { relativeError } from '../fixtures/encoder-vectors.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { tinyClip } from '../fixtures/tiny.js';

// Models of random weights as PyTorch stores and computes them: test/vectors/towers/make_towers.py. Their tokens are
// the words w0, w1, ...
const towers = fileURLToPath(new URL('../vectors/towers', import.meta.url));
const folder = temporaryFolder();
const devices = await devicesUnderTest('text towers');
afterEach(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true });
});

const vocabulary = 90;

/**
 * A tokenizer of whole words as SigLIP's first version has one: a unigram model whose words bring their blank, and an
 * end token.
 */
function writeTokenizer(to: string, end: number, { pad = end } = {}): void {
  const unknown = end === 1 ? 89 : 88; // what no vector holds
  const names = Array.from({ length: vocabulary }, (_, id) =>
    id === end ? '</s>' : id === unknown ? '<unk>' : `▁w${id}`,
  );
  const blanks = { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' };
  writeFileSync(
    join(to, 'tokenizer.json'),
    JSON.stringify({
      version: '1.0',
      normalizer: null,
      pre_tokenizer: blanks,
      decoder: blanks,
      added_tokens: [
        {
          id: end,
          content: '</s>',
          single_word: false,
          lstrip: false,
          rstrip: false,
          normalized: false,
          special: true,
        },
      ],
      post_processor: {
        type: 'TemplateProcessing',
        pair: [],
        single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
        special_tokens: { '</s>': { id: '</s>', ids: [end], tokens: ['</s>'] } },
      },
      model: { type: 'Unigram', unk_id: unknown, vocab: names.map((name) => [name, name.startsWith('▁') ? -3 : 0]) },
    }),
  );
  writeFileSync(
    join(to, 'tokenizer_config.json'),
    JSON.stringify({
      tokenizer_class: 'SiglipTokenizer',
      eos_token: '</s>',
      pad_token: names[pad],
      unk_token: '<unk>',
      model_max_length: 64,
    }),
  );
}

/** A model's copy with a tokenizer, the texts that its vectors were computed of, and what PyTorch made of them. */
async function modelOf(name: string): Promise<{ path: string; texts: string[]; expected: Float32Array }> {
  const path = join(folder, name);
  cpSync(join(towers, name), path, { recursive: true });
  const { tensors, metadata } = await readSafetensors(join(path, 'vectors.safetensors'));
  rmSync(join(path, 'vectors.safetensors'));
  const end = Number(metadata['end']);
  writeTokenizer(path, end);
  const {
    shape: [count = 0, length = 0],
    data,
  } = tensors.get('ids')!;
  const rows = Array.from({ length: count }, (_, i) =>
    [...(data as BigInt64Array).subarray(i * length, (i + 1) * length)].map(Number),
  );
  const texts = rows.map((row) =>
    row
      .slice(0, row.indexOf(end))
      .map((id) => `w${id}`)
      .join(' '),
  );
  return { path, texts, expected: tensors.get('text_embeds')!.data as Float32Array };
}

describe.each(devices)('on $name', ({ device }) => {
  it.each(['openai-vit', 'open-clip-vit', 'transformers-clip', 'siglip'])(
    'embeds the texts of %s as PyTorch does',
    async (name) => {
      const { path, texts, expected } = await modelOf(name);
      for (const batchSize of [3, 32]) {
        await using encoder = await loadTextEncoder(path, { device, batchSize });
        expect(encoder).toBeInstanceOf(NativeTextEncoder);
        expect(encoder.maxTokens).toBe(12);
        expect(relativeError(await encoder.encode(texts), expected)).toBeLessThan(1e-5);
      }
    },
  );
});

it("a tower and its tokenizer come from one revision in the hub's cache", async () => {
  const { path, texts, expected } = await modelOf('transformers-clip');
  const cacheDir = join(folder, 'cache');
  const model = join(cacheDir, 'models--org--tower');
  const [main, whole] = ['a', 'b'].map((digit) => join(model, 'snapshots', digit.repeat(40))) as [string, string];
  for (const snapshot of [main, whole]) cpSync(path, snapshot, { recursive: true });
  // what is looked for with the weights lies beside the others alone
  rmSync(join(main, 'config.json'));
  writeTokenizer(main, 5);
  mkdirSync(join(model, 'refs'));
  writeFileSync(join(model, 'refs', 'main'), 'a'.repeat(40));
  await using encoder = await loadTextEncoder('org/tower', { device: 'cpu', cacheDir, localFilesOnly: true });
  expect(relativeError(await encoder.encode(texts), expected)).toBeLessThan(1e-5);
});

describe("SigLIP's text tower", () => {
  it('gives as ONNX what PyTorch gives', async () => {
    const { path, texts, expected } = await modelOf('siglip');
    mkdirSync(join(path, 'onnx'));
    cpSync(join(towers, 'siglip', 'text.onnx'), join(path, 'onnx', 'text_model.onnx'));
    await using encoder = await loadTextEncoder(path, { batchSize: 3 });
    expect(encoder).toBeInstanceOf(ClipTextEncoder);
    expect(encoder).toMatchObject({ maxTokens: 12, embeddingSize: 32 });
    expect(relativeError(await encoder.encode(texts), expected)).toBeLessThan(1e-5);
  });

  it('refuses an ONNX model without the output that its kind has', async () => {
    const path = join(folder, 'other');
    cpSync(tinyClip, path, { recursive: true });
    writeFileSync(join(path, 'config.json'), JSON.stringify({ model_type: 'siglip' }));
    await expect(ClipTextEncoder.load(path)).rejects.toMatchObject({
      code: 'BAD_MODEL',
      message: expect.stringMatching(/no pooler_output .*text_embeds/su) as string,
    });
  });

  it('reads texts as the first version was trained: lower case, no punctuation, single blanks, padded', async () => {
    writeTokenizer(folder, 1, { pad: 7 });
    const tokenizer = await TextTokenizer.load(folder, { siglip: true });
    expect(tokenizer.encode("  (W5),\tw70!\n'W3'. ", 6)).toEqual([5, 70, 3, 1, 7, 7]);
    expect(tokenizer.encode('', 3)).toEqual([1, 7, 7]);
    expect(tokenizer.encode('w5 w6 w7 w8', 3)).toEqual([5, 6, 1]);
    expect(tokenizer.count('W5, w6')).toBe(3);
  });

  it('keeps the punctuation for the byte-pair tokenizer of the second version', async () => {
    const [clip, siglip] = [await TextTokenizer.load(tinyClip), await TextTokenizer.load(tinyClip, { siglip: true })];
    const ids = clip.encode('a dog, a cat!', 77);
    expect(siglip.encode('A DOG, a cat!', 77).slice(0, ids.length)).toEqual(ids);
    expect(siglip.encode('a dog, a cat!', 77).length).toBe(77);
  });
});
