import { expect, it, vi } from 'vitest';
import { checkDistinctIds, IdPlaces, plainId } from '../../lib/data/image-id.js';

it.each([
  ['./a/b.jpg', 'a/b.jpg'],
  ['s.tar/./a.jpg', 's.tar/a.jpg'],
  ['././/a', 'a'],
  ['a./b', 'a./b'],
  ['.a/b', '.a/b'],
  ['../a', '../a'],
  ['a/../b', 'a/../b'],
  ['/a', '/a'],
  ['a/b', 'a/b'],
])('%s is plainly %s', (id, plain) => expect(plainId(id)).toBe(plain));

it('any number of ids have their places, in maps that are full before they hold all', () => {
  const ids = Array.from({ length: 10 }, (_, i) => `image ${i}`);
  const places = new IdPlaces(ids, 3);
  expect(ids.map((id) => places.get(id))).toEqual([...ids.keys()]);
  expect([places.size, places.first, places.get('./image 7'), places.has('image 10'), places.get('')]).toEqual([
    10,
    'image 0',
    7,
    false,
    undefined,
  ]);
  expect([new IdPlaces().size, new IdPlaces().first]).toEqual([0, undefined]);
});

it('ids that are not distinct are refused where embeddings are looked up by them', async () => {
  await checkDistinctIds(['a', 'b/a'], undefined);
  await expect(checkDistinctIds(['a', 'b', './a'], undefined)).rejects.toMatchObject({
    code: 'BAD_DATASET',
    message: expect.stringContaining('two images have the id "./a"') as string,
  });
});

it('many ids are looked at in turns with other callbacks, which may stop it', async () => {
  const ids = Array.from({ length: 20_000 }, (_, i) => `${i}.jpg`);
  const other = vi.fn();
  setImmediate(other);
  await checkDistinctIds(ids, undefined);
  expect(other).toHaveBeenCalled();
  await expect(checkDistinctIds(ids, AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
});
