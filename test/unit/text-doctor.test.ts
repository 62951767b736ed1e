import { afterAll, beforeAll, expect, test } from 'vitest';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { formatReport, mendNames } from '../../lib/text/doctor.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { CategoryList } from '../../lib/text/names.js';
import { fixedEncoder } from '../fixtures/text-encoder.js';
import { tinyClip } from '../fixtures/tiny.js';

let encoder: ClipTextEncoder;
beforeAll(async () => {
  encoder = await ClipTextEncoder.load(tinyClip);
});
afterAll(() => encoder.dispose());

const planted = [
  'cat',
  'dog',
  'cat',
  'Hot_Dog',
  'hot dog',
  ' truck',
  'fire  engine',
  'bow (weapon)',
  'bow (ribbon)',
  'crane (bird)',
  '',
  ' _ ',
  'tab\there',
  'ox, cow',
  'cat # a pet',
  'C# logo',
  '#1 finish',
];
const indices = (found: { index: number }[]) => found.map(({ index }) => index);

test('finds each kind of planted fault, and only those', async () => {
  const report = await (await CategoryList.load(planted)).check();
  expect(report.count).toBe(planted.length);
  expect(report.exactDuplicates).toEqual([{ name: 'cat', indices: [0, 2] }]);
  expect(report.spellingDuplicates).toEqual([{ names: ['Hot_Dog', 'hot dog'], indices: [3, 4] }]);
  expect(indices(report.blanks)).toEqual([5, 6, 12]);
  expect(indices(report.underscores)).toEqual([3, 11]);
  expect(indices(report.parentheses)).toEqual([7, 8, 9]);
  expect(indices(report.empty)).toEqual([10, 11]);
  expect(report.commas).toEqual([{ index: 13, name: 'ox, cow' }]);
  expect(report.comments).toEqual([{ index: 14, name: 'cat # a pet' }]);
  expect(report.textSpace).toBeUndefined();
  expect(report.clean).toBe(false);
  expect(report.mended).toEqual([
    'cat',
    'dog',
    'Hot Dog',
    'truck',
    'fire engine',
    'bow (weapon)',
    'bow (ribbon)',
    'crane',
    'tab here',
    'ox, cow',
    'cat # a pet',
    'C# logo',
    '#1 finish',
  ]);
});

test('what is not seen in a name is found, makes no other name of it, and is dropped', async () => {
  const report = await (await CategoryList.load(['green', 'green\u200B', 'ro\u00ADbin'])).check();
  expect(report.spellingDuplicates).toEqual([{ names: ['green', 'green\u200B'], indices: [0, 1] }]);
  expect(indices(report.blanks)).toEqual([1, 2]);
  expect(report.mended).toEqual(['green', 'robin']);
});

test('the mended list has no fault of spelling left but needed parentheses, commas and what may be comments', async () => {
  const { mended } = await (await CategoryList.load(planted)).check();
  expect(mendNames(mended)).toEqual(mended);
  const report = await (await CategoryList.load(mended)).check();
  expect({ ...report, parentheses: [], commas: [], comments: [], count: 0, mended: [], clean: true }).toEqual({
    count: 0,
    exactDuplicates: [],
    spellingDuplicates: [],
    nearDuplicates: [],
    nearDuplicateCount: 0,
    blanks: [],
    underscores: [],
    parentheses: [],
    commas: [],
    comments: [],
    empty: [],
    truncated: [],
    textSpace: undefined,
    mended: [],
    clean: true,
  });
  expect(report.parentheses.map(({ name }) => name)).toEqual(['bow (weapon)', 'bow (ribbon)']);
  expect(report.commas.map(({ name }) => name)).toEqual(['ox, cow']);
});

test.each([
  [
    ['crane', 'crane (bird)'],
    ['crane', 'crane (bird)'],
  ],
  [['a (b (c)) d'], ['a d']],
  [['(only)'], ['(only)']],
  [['Crane (bird)', 'crane_(BIRD)'], ['Crane']],
  [['broken (name'], ['broken (name']],
  [['cafe\u0301', 'caf\u00e9'], ['caf\u00e9']],
])('mends %j', (names, mended) => {
  expect(mendNames(names)).toEqual(mended);
});

test('finds near-duplicates in text space with the real text tower', async () => {
  const templates = ['{}', 'a {}', 'a photo of a {}'];
  const names = ['cat', 'pizza', 'CAT', 'strawberry', 'tv', 'cat!', 'dog', 'airplane'];
  const report = await (await CategoryList.load(names)).check({ encoder, templates, similarity: 0.5 });
  expect(report.textSpace).toMatchObject({
    encoder: 'tiny-clip',
    similarity: 0.5,
    maxTokens: 32,
    longestTemplate: 'a photo of a {}',
  });
  const { data } = await TextualSemanticsBank.build(names, { encoder, templates });
  const cosine = (a: number, b: number) =>
    data.subarray(a * 256, (a + 1) * 256).reduce((sum, value, k) => sum + value * data[b * 256 + k]!, 0);
  // CAT is a spelling of cat
  const expected = names
    .flatMap((_, a) => names.map((_, b) => [a, b] as const))
    .filter(([a, b]) => a < b && a !== 2 && b !== 2 && cosine(a, b) >= 0.5);
  expect(expected.length).toBeGreaterThan(0);
  expect(expected.length).toBeLessThan(21);
  expect(report.nearDuplicates.map(({ a, b }) => `${a.index}-${b.index}`).sort()).toEqual(
    expected.map(([a, b]) => `${a}-${b}`).sort(),
  );
  for (const { a, b, similarity } of report.nearDuplicates) expect(similarity).toBeCloseTo(cosine(a.index, b.index), 5);
});

test('near-duplicates are pairs of bank rows at or above the threshold', async () => {
  const angles: Record<string, number> = { a: 0, b: 0.1, c: 0.25, d: 2 }; // cosines: a-b .995, b-c .989, a-c .969
  const fixed = fixedEncoder(2, (text) => [5 * Math.cos(angles[text]!), 5 * Math.sin(angles[text]!)]);
  const report = await (await CategoryList.load(['a', 'b', 'c', 'd'])).check({ encoder: fixed, templates: 'none' });
  expect(report.nearDuplicates.map(({ a, b }) => a.name + b.name)).toEqual(['ab', 'bc']);
  expect(report.nearDuplicates[1]!.similarity).toBeCloseTo(Math.cos(0.15), 6);
  expect(report.nearDuplicateCount).toBe(2);
  expect(report.mended).toEqual(['a', 'b', 'c', 'd']);
  expect(report.clean).toBe(false);
});

test('a bank built before finds what its encoder finds, without encoding anything', async () => {
  const names = ['cat', 'pizza', 'CAT', 'strawberry', 'tv', 'cat!', 'dog', 'airplane'];
  const list = await CategoryList.load(names);
  const encoded = await list.check({ encoder, templates: 'single', similarity: 0.5 });
  const bank = await TextualSemanticsBank.build(['extra', ...[...names].reverse()], { encoder, templates: 'single' });
  const seen: [number, number][] = [];
  const found = await list.check({ bank, similarity: 0.5, onProgress: (done, total) => seen.push([done, total]) });
  expect(seen).toEqual([[0, 7]]); // of the turns that the search takes
  expect(found.nearDuplicates.map(({ a, b }) => [a, b])).toEqual(encoded.nearDuplicates.map(({ a, b }) => [a, b]));
  found.nearDuplicates.forEach(({ similarity }, i) =>
    expect(similarity).toBeCloseTo(encoded.nearDuplicates[i]!.similarity, 5),
  );
  expect(found.textSpace).toEqual({
    encoder: 'tiny-clip',
    templates: ['a photo of a {}.'],
    similarity: 0.5,
    longestTemplate: undefined,
    maxTokens: undefined,
  });
  expect(formatReport(found)).toContain('long prompts: not looked for, a bank was given');
  await expect((await CategoryList.load([...names, 'yak'])).check({ bank })).rejects.toMatchObject({
    code: 'BAD_BANK',
    found: ['yak'],
  });
  await expect(list.check({ bank, encoder })).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'encoder' });
});

test('finds prompts that lose tokens, in the longest template', async () => {
  const long = 'a very long name '.repeat(8).trim();
  const report = await (
    await CategoryList.load(['cat', long])
  ).check({ encoder, templates: ['{}', 'a photo of a {}.'] });
  expect(report.truncated).toEqual([{ index: 1, name: long, tokens: encoder.countTokens(`a photo of a ${long}.`) }]);
  expect(report.truncated[0]!.tokens).toBeGreaterThan(32);
  expect(report.textSpace!.longestTemplate).toBe('a photo of a {}.');
});

test('prints what it found', async () => {
  const list = await CategoryList.load(planted);
  const text = formatReport(await list.check());
  for (const part of [
    '"cat" (1, 3)',
    '"Hot_Dog" = "hot dog" (4, 5)',
    'underscores: 2',
    'parentheses: 3',
    'empty: 2',
    'commas, of several names on a line: 1',
    'mended list: 13 names',
    '" # ", which begins no comment within a line: 1',
    'put it on a line of its own',
    'where one is several, write those one a line',
    'no text encoder',
  ])
    expect(text).toContain(part);
  expect(text).not.toContain('yours to decide');
  const alike = await CategoryList.load(['cat', 'cat!']);
  expect(formatReport(await alike.check({ encoder: fixedEncoder(2, () => [1, 0]), templates: 'none' }))).toMatch(
    /mended list: 2 names\nnames alike in text space stay in it: .* is yours to decide$/u,
  );
  const clean = await CategoryList.load(['cat', 'dog']);
  expect(formatReport(await clean.check({ encoder, templates: 'none' }))).toBe(
    '2 names, counted from 1\nnothing to mend',
  );
  const many = await CategoryList.load(Array.from({ length: 20 }, (_, i) => `a_${i}`));
  expect(formatReport(await many.check(), { show: 3 })).toContain('  and 17 more');
});

test('the report is plain data', async () => {
  const report = await (await CategoryList.load(planted)).check({ encoder: fixedEncoder(2, () => [1, 0]) });
  expect(JSON.parse(JSON.stringify(report))).toEqual(report);
});

test('20,000 names take seconds without an encoder', async () => {
  const list = await CategoryList.load(Array.from({ length: 20_000 }, (_, i) => `name_${i % 15_000} (${i})`));
  const start = performance.now();
  const report = await list.check();
  expect(report.underscores.length).toBe(20_000);
  expect(report.mended.length).toBe(20_000);
  expect(performance.now() - start).toBeLessThan(20_000);
});

test('refuses a threshold that is no cosine, and stops when told to', async () => {
  const list = await CategoryList.load(['cat', 'dog']);
  await expect(list.check({ encoder, similarity: 98 })).rejects.toMatchObject({
    code: 'BAD_OPTION',
    option: 'similarity',
  });
  await expect(list.check({ encoder, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
});

test('templates that are not there are told of, also where nothing is embedded', async () => {
  await expect((await CategoryList.load(['a', 'b'])).check({ templates: './no/such.txt' })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
});
