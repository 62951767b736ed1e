import { expect, it } from 'vitest';
import { BankSource } from '../../lib/banks/bank-source.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { parseConfig } from '../../lib/config/config.js';

it('an evaluation takes names of the bank twice where duplicates are allowed, and nowhere else', async () => {
  const bank = TextualSemanticsBank.fromEmbeddings(['cat', 'dog'], Float32Array.of(1, 0, 0, 1), {
    encoderId: 'made up',
  });
  const evaluation = (allowDuplicates: boolean) =>
    new BankSource(
      parseConfig({ allowDuplicates, evaluate: { names: ['dog', 'cat', 'dog'] } }),
      { embeddingSize: 2 },
      {},
    ).evaluation(bank);
  const { names, data } = await evaluation(true);
  expect(names).toEqual(['dog', 'cat', 'dog']);
  expect([...data]).toEqual([0, 1, 1, 0, 0, 1]);
  await expect(evaluation(false)).rejects.toMatchObject({ code: 'BAD_NAMES' });
});
