import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { bankFromFile } from '../../lib/banks/embeddings-file.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { writeSafetensors, type TensorRecord } from '../../lib/files/safetensors.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();
const at = (name: string) => join(folder, `${name}.safetensors`);
const rows: TensorRecord = { shape: [3, 2], data: Float32Array.of(3, 4, 0, -2, 1, 0) };
const names = ['cat', 'dog', 'emu'];

async function write(
  name: string,
  tensors: Record<string, TensorRecord>,
  metadata: Record<string, string> = {},
): Promise<string> {
  await writeSafetensors(at(name), Object.entries(tensors), metadata);
  return at(name);
}

describe('a bank of embeddings computed elsewhere', () => {
  test('has unit rows in the order of the names, and says where they come from', async () => {
    const { bank, lengths } = await bankFromFile(await write('plain', { embeddings: rows }), {
      names,
      encoderId: 'org/clip',
      templates: ['a {}'],
    });
    expect(bank).toMatchObject({ names, encoderId: 'org/clip', templates: ['a {}'], embeddingSize: 2 });
    expect([...bank.data]).toEqual([Math.fround(0.6), Math.fround(0.8), 0, -1, 1, 0]);
    expect(lengths).toEqual({ shortest: 1, longest: 5 });
  });

  test('takes names, encoder and templates from the metadata; a tensor alone may have any name; float64 will do', async () => {
    const file = await write(
      'described',
      { text: { shape: [3, 2], data: Float64Array.from(rows.data as Float32Array) } },
      { names: JSON.stringify(names), encoder: 'org/other', templates: '["{}"]' },
    );
    expect((await bankFromFile(file)).bank).toMatchObject({ names, encoderId: 'org/other', templates: ['{}'] });
    expect((await bankFromFile(file, { encoderId: 'mine' })).bank.encoderId).toBe('mine');
  });

  test('takes a list of names from another copy of the package', async () => {
    vi.resetModules();
    // another class than the one that bankFromFile knows
    const { CategoryList } = await import('../../lib/text/names.js');
    expect(
      (
        await bankFromFile(await write('copies', { embeddings: rows }), {
          names: await CategoryList.load(names),
          encoderId: 'x',
        })
      ).bank.names,
    ).toEqual(names);
  });

  test.each<
    [string, Record<string, TensorRecord>, Record<string, string>, Parameters<typeof bankFromFile>[1], string, string]
  >([
    [
      'another number of names',
      { embeddings: rows },
      {},
      { names: ['cat'], encoderId: 'x' },
      'BAD_SHAPE',
      '3 rows for 1 name',
    ],
    [
      'a vector',
      { embeddings: { shape: [6], data: rows.data } },
      {},
      { names, encoderId: 'x' },
      'BAD_SHAPE',
      'no matrix of floats',
    ],
    [
      'whole numbers',
      { embeddings: { shape: [3, 2], data: Int32Array.of(1, 2, 3, 4, 5, 6) } },
      {},
      { names, encoderId: 'x' },
      'BAD_SHAPE',
      'no matrix of floats',
    ],
    [
      'two tensors of other names',
      { a: rows, b: rows },
      {},
      { names, encoderId: 'x' },
      'BAD_FILE',
      'no tensor "embeddings"',
    ],
    ['no names at all', { embeddings: rows }, {}, { encoderId: 'x' }, 'BAD_NAMES', 'holds no names'],
    [
      'names in another order',
      { embeddings: rows },
      { names: '["cat","emu","dog"]' },
      { names, encoderId: 'x' },
      'BAD_NAMES',
      'row 1',
    ],
    [
      'names that are no list',
      { embeddings: rows },
      { names: 'cat, dog' },
      { encoderId: 'x' },
      'BAD_FILE',
      'no JSON array of strings',
    ],
    ['no encoder', { embeddings: rows }, {}, { names }, 'BAD_OPTION', 'which encoder'],
    [
      'a zero row',
      { embeddings: { shape: [3, 2], data: Float32Array.of(1, 0, 0, 0, 0, 1) } },
      {},
      { names, encoderId: 'x' },
      'ZERO_EMBEDDING',
      'row 1 ("dog")',
    ],
    [
      'a NaN',
      { embeddings: { shape: [3, 2], data: Float32Array.of(1, 0, 0, 1, NaN, 1) } },
      {},
      { names, encoderId: 'x' },
      'NON_FINITE',
      'row 2 ("emu")',
    ],
    [
      'a name twice',
      { embeddings: rows },
      {},
      { names: ['cat', 'cat', 'emu'], encoderId: 'x' },
      'BAD_NAMES',
      'more than once',
    ],
  ])('%s is refused', async (what, tensors, metadata, options, code, message) => {
    await expect(
      bankFromFile(await write(what.replaceAll(' ', '-'), tensors, metadata), options),
    ).rejects.toMatchObject({ code, message: expect.stringContaining(message) as string });
  });
});

describe('lgdistill bank build --embeddings', () => {
  test('writes the bank; no text tower is loaded', async () => {
    const [file, to] = [await write('for-cli', { embeddings: rows }), at('bank')];
    const { code, documents, stderr } = await lgdistill([
      'bank',
      'build',
      '--embeddings',
      file,
      '--names',
      JSON.stringify(names),
      '--text-encoder',
      'org/nowhere',
      '--to',
      to,
      '--json',
    ]);
    expect(code).toBe(0);
    const bank = await TextualSemanticsBank.load(to);
    expect(documents()).toEqual([
      {
        file: to,
        size: 3,
        embeddingSize: 2,
        templates: [],
        encoder: 'org/nowhere',
        hash: bank.hash,
        lengths: { shortest: 1, longest: 5 },
      },
    ]);
    expect(stderr).toContain('from org/nowhere; rows had lengths 1.000 to 5.000, now 1');
    expect((await lgdistill(['bank', 'inspect', to])).stdout).toMatch(/^templates +not recorded$/mu);
  });

  test('and asks for what a bank must record', async () => {
    const { code, stderr } = await lgdistill([
      'bank',
      'build',
      '--embeddings',
      await write('nameless', { embeddings: rows }),
      '--names',
      '["a","b","c"]',
      '--to',
      at('none'),
    ]);
    expect([code, stderr.split('\n')[0]]).toEqual([2, 'error BAD_OPTION']);
  });
});
