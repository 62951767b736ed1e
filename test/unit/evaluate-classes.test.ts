import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LgdError } from '../../lib/errors.js';
import { emptyClassFolders, knownMapping, labelsAmong, matchClasses, readMapping } from '../../lib/evaluate/classes.js';
import { makeScore, wilsonInterval } from '../../lib/evaluate/score.js';
import { CategoryList } from '../../lib/text/names.js';

function mismatch(...args: Parameters<typeof matchClasses>): string {
  try {
    matchClasses(...args);
  } catch (error) {
    expect(error).toBeInstanceOf(LgdError);
    expect((error as LgdError).code).toBe('CLASS_MISMATCH');
    return (error as LgdError).message;
  }
  throw new Error('nothing was thrown');
}

describe('matchClasses', () => {
  it('matches names in any order, whatever their case, with underscores for blanks', () => {
    expect(
      Array.from(matchClasses(['Traffic_Light', 'cat', 'red  panda'], ['cat', 'red_panda', 'traffic light'])),
    ).toEqual([2, 0, 1]);
    expect(Array.from(matchClasses(['_CAT_'], ['cat']))).toEqual([0]);
    expect(mismatch(['Air_Plane'], ['airplane'])).toContain('class folders without a name (1): "Air_Plane"');
  });

  it('follows a mapping', () => {
    expect(Array.from(matchClasses(['n01', 'cat'], ['cat', 'goldfish'], { n01: 'Goldfish' }))).toEqual([1, 0]);
  });

  it('lists what is unmatched on both sides', () => {
    const message = mismatch(['cat', 'dgo', 'emu'], ['cat', 'dog', 'eel', 'yak']);
    expect(message).toContain('class folders without a name (2): "dgo", "emu"');
    expect(message).toContain('names without a class folder (3): "dog", "eel", "yak"');
    expect(message).not.toContain('"cat"');
  });

  it('refuses what would be ambiguous', () => {
    expect(mismatch(['cat'], ['cat', 'Cat'])).toContain('do not match; names spelled alike (1): "Cat".');
    expect(mismatch(['cat', 'kitty'], ['cat'], { kitty: 'cat' })).toContain('"cat and kitty"');
    expect(mismatch(['cat'], ['cat'], { dog: 'cat' })).toContain('mapping that are not there (1): "dog"');
    expect(mismatch(['cat', 'toString'], ['cat', 'x'])).toContain('"toString"');
  });

  it('shortens long lists', () => {
    const many = Array.from({ length: 500 }, (_, i) => `class ${i}`);
    const message = mismatch(many, ['other']);
    expect(message).toContain('(500)');
    expect(message.length).toBeLessThan(650);
  });
});

describe('class folders without images', () => {
  it('are called so, with the names that are left', () => {
    const message = mismatch(['airplane', 'ship'], ['airplane', 'Cat', 'ship'], {}, ['cat', 'notes']);
    expect(message).toContain('class folders that are there and hold no image (1): "cat"');
    expect(message).toContain(`evaluate.names, as '["airplane","ship"]'`);
    expect(message).not.toMatch(/without a class folder|class folder itself/u);
    expect(mismatch(['ship'], ['ship', 'cat', 'dog'], { n01: 'cat' }, ['n01'])).toMatch(
      /hold no image \(1\): "n01"; names without a class folder \(1\): "dog"\./u,
    );
    expect(Array.from(matchClasses(['ship'], ['ship'], {}, ['cat', 'Ship']))).toEqual([0]); // no name asks for them
  });

  it('are found right below the folder, links among them', async () => {
    const root = await mkdtemp(join(tmpdir(), 'lgdistill-classes-'));
    await Promise.all(['cat', 'dog', '.hidden'].map((name) => mkdir(join(root, name))));
    await writeFile(join(root, 'notes.txt'), '');
    await symlink(join(root, 'dog'), join(root, 'linked'));
    expect(await emptyClassFolders({ root, classNames: ['dog'] })).toEqual(['cat', 'linked']);
    expect(await emptyClassFolders({ root: join(root, 'notes.txt'), classNames: [] })).toEqual([]);
    await rm(root, { recursive: true });
  });
});

describe('class folders of another set than the names', () => {
  it('need a bank of their own, and the error says how to make and use one', () => {
    const message = mismatch(['tench', 'goldfish', 'cat'], ['cat', 'dog']);
    expect(message).toContain(
      'the class folders are of another set than the category names, so their images need a text bank of their own',
    );
    for (const part of [
      'evaluate.names',
      'lgdistill bank build --names',
      '--text-encoder',
      'lgdistill evaluate --bank',
      'evaluate.bank',
      'evaluate.mapping',
    ])
      expect(message).toContain(part);
    expect(mismatch(['cat', 'dgo'], ['cat', 'dog'])).not.toContain('another set'); // half of them fit: a slip
  });
});

describe('labelsAmong', () => {
  it('tells a folder without images from one that is not there', () => {
    const options = { option: 'evaluate.online', mend: 'Give the same classes', empty: ['cat'] };
    expect(() =>
      labelsAmong({ labels: Int32Array.of(0, 1, 2), classNames: ['cat', 'dog', 'emu'] }, ['dog'], options),
    ).toThrow(/is there and holds none \(1\): "cat"; classes that the images to learn from do not have \(1\): "emu"/u);
  });

  const where = { option: 'evaluate.train', mend: 'Give the same classes' };
  const among = (classNames: string[], classes: string[]) => [
    ...labelsAmong({ labels: Int32Array.from(classNames.keys()), classNames }, classes, where),
  ];

  it('finds each class by its name, among more of them, too', () => {
    expect(among(['cross', 'circle', 'square'], ['square', 'cross', 'circle'])).toEqual([1, 2, 0]);
    expect(among(['cross', 'circle'], ['square', 'circle', 'cross'])).toEqual([2, 1]);
  });

  it('refuses names that are not there, and names that stand twice unless the lists are the same', () => {
    expect(among(['crane', 'cat', 'crane'], ['crane', 'cat', 'crane'])).toEqual([0, 1, 2]);
    for (const [from, to, part] of [
      [['cat', 'emu'], ['cat', 'dog'], 'do not have (1): "emu"'],
      [['cat', 'crane'], ['crane', 'cat', 'crane'], 'of the same name (1): "crane"'],
      [['crane', 'crane', 'cat'], ['cat', 'crane'], '"crane"'],
    ] as const) {
      expect(() => among([...from], [...to])).toThrow(
        expect.objectContaining({
          code: 'CLASS_MISMATCH',
          ...where,
          message: expect.stringContaining(part) as unknown,
        }) as Error,
      );
    }
  });
});

describe('knownMapping', () => {
  /** A thousand WordNet ids with ImageNet-1k's own at their places; those between are made up. */
  const synsets = (): string[] => {
    const known: [number, number][] = [
      [0, 1440764],
      [1, 1443537],
      [2, 1484850],
      [151, 2085620],
      [207, 2099601],
      [281, 2123045],
      [340, 2391049],
      [386, 2504458],
      [388, 2510455],
      [404, 2690373],
      [517, 3126707],
      [779, 4146614],
      [954, 7753592],
      [980, 9472597],
      [999, 15075141],
    ];
    const ids: string[] = [];
    known.forEach(([place, id], i) => {
      const next = known[i + 1]?.[0] ?? place + 1;
      for (let offset = 0; place + offset < next; offset++) ids.push(`n${String(id + offset).padStart(8, '0')}`);
    });
    return ids;
  };

  it('knows the folders of ImageNet-1k in any order', async () => {
    const folders = synsets();
    const mapping = await knownMapping([...folders].reverse());
    expect(mapping).toMatchObject({
      n01440764: 'tench',
      n02123045: 'tabby',
      n03126707: 'crane',
      n07753592: 'banana',
      n15075141: 'toilet tissue',
    });
    const { names } = await CategoryList.builtin('imagenet-1k');
    expect(Array.from(matchClasses(folders, names, mapping))).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  });

  it('is empty for a part of them, for other synsets and for names', async () => {
    const folders = synsets();
    expect(await knownMapping(folders.slice(0, 999))).toEqual({});
    expect(await knownMapping([...folders, 'n99999999'])).toEqual({});
    expect(await knownMapping(folders.map((id, i) => (i === 500 ? `${id} and more` : id)))).toEqual({});
    expect(await knownMapping(['n01440763', ...folders.slice(0, 999)])).toEqual({});
    expect(await knownMapping(Array.from({ length: 1000 }, (_, i) => `class ${i}`))).toEqual({});
  });
});

describe('readMapping', () => {
  it('reads an object of names and nothing else', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'lgd-mapping-'));
    const file = join(folder, 'mapping.json');
    for (const mark of ['', '\uFEFF']) {
      await writeFile(file, `${mark}{"n01": "goldfish"}`);
      expect(await readMapping(file)).toEqual({ n01: 'goldfish' });
    }
    for (const wrong of ['["a"]', '{"a": 1}', 'null', '{']) {
      await writeFile(file, wrong);
      await expect(readMapping(file)).rejects.toMatchObject({ code: 'BAD_FILE', option: 'evaluate.mapping' });
    }
    await expect(readMapping(join(folder, 'none'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await rm(folder, { recursive: true });
  });
});

describe('scores', () => {
  // Roots of (p - x)^2 = z^2 x (1 - x) / n, found apart by bisection.
  it.each([
    [8, 10, 0.4901625, 0.9433178],
    [0, 20, 0, 0.1611252],
    [20, 20, 0.8388748, 1],
    [500, 1000, 0.4690696, 0.5309304],
  ])('has the Wilson interval of %i in %i', (successes, n, low, high) => {
    const [a, b] = wilsonInterval(successes, n);
    expect(a).toBeCloseTo(low, 6);
    expect(b).toBeCloseTo(high, 6);
  });

  it('is anything without images, and never outside 0 to 1', () => {
    expect(wilsonInterval(0, 0)).toEqual([0, 1]);
    for (let n = 1; n < 100; n++)
      expect(
        [wilsonInterval(0, n)[0], 1 - wilsonInterval(n, n)[1]].every((outside) => outside >= 0),
        String(n),
      ).toBe(true);
  });

  it('gives shares', () => {
    const expected = { top1: 0.75, top5: 1, topK: 3, interval1: wilsonInterval(3, 4), interval5: wilsonInterval(4, 4) };
    expect(makeScore({ correct1: 3, correct5: 4, images: 4, classes: 3, topK: 3 })).toMatchObject(expected);
  });
});
