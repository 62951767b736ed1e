import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fillTemplate, loadTemplates, templateSets } from '../../lib/text/templates.js';
import { temporaryFolder } from '../fixtures/folder.js';

const folder = temporaryFolder();

test('every set is sound and can be loaded by its id', async () => {
  for (const [id, templates] of Object.entries(templateSets)) {
    expect(await loadTemplates(id)).toEqual(templates);
    expect(new Set(templates).size).toBe(templates.length);
  }
  expect(templateSets['none']).toEqual(['{}']);
  expect(templateSets['single']).toEqual(['a photo of a {}.']);
});

test('a file has one template a line', async () => {
  const file = join(folder, 'templates.txt');
  writeFileSync(file, '\uFEFF# mine\r\na {} on a table\r\n\r\nthe {}\r\n');
  expect(await loadTemplates(file)).toEqual(['a {} on a table', 'the {}']);
});

test.each([[['a cat']], [['{} and {}']], [[]], [[, 'a {}']], [{}], [5]])('refuses %j', async (templates) => {
  await expect(loadTemplates(templates as string[])).rejects.toMatchObject({ code: 'BAD_OPTION', option: 'templates' });
});

test('names what is wrong with a source that is not there', async () => {
  await expect(loadTemplates('defualt')).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: 'Did you mean default?',
  });
  await expect(loadTemplates('a photo of a {}.')).rejects.toMatchObject({ code: 'BAD_OPTION' });
  await expect(loadTemplates(folder)).rejects.toMatchObject({ code: 'BAD_OPTION' });
});

test('a name is put in letter by letter', () => {
  expect(fillTemplate('a {}.', "$& $' {}")).toBe("a $& $' {}.");
});
