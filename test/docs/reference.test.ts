/** Pages that speak of what stands in the code: they are complete, and their links lead somewhere. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { exitCodes } from '../../lib/cli/failure.js';
import { configOptions } from '../../lib/config/config.js';
import { errorCodes } from '../../lib/errors.js';
import { listStudents } from '../../lib/models/index.js';
import type { StudentFamily } from '../../lib/models/students/definition.js';
import { namings } from '../../lib/models/tools/families.js';
import { tools } from '../../lib/models/tools/naming.js';
import { checkSwitches, unknownSwitches } from '../../lib/switches.js';
import { configInputType } from '../../scripts/docs/config-input.mjs';
import { optionsPage } from '../../scripts/docs/options.mjs';
import { pages, readPage, root } from './pages.js';

test('docs/options.md is what the options say; write it with npm run docs:options', () => {
  expect(readPage('docs/options.md')).toBe(optionsPage(configOptions()));
});

test('lib/config/input.ts is what the options say; write it with npm run docs:options', async () => {
  expect(readFileSync(join(root, 'lib/config/input.ts'), 'utf8')).toBe(await configInputType(configOptions()));
});

test('docs/troubleshooting.md has every error code and no other, in alphabetical order, and every exit code', () => {
  const rows = [...readPage('docs/troubleshooting.md').matchAll(/^\| `([A-Z_]+)` \| \S[^|]* \| \S[^|]* \|$/gmu)].map(
    ([, code]) => code!,
  );
  expect(rows).toEqual([...errorCodes].sort());
  for (const code of Object.values(exitCodes))
    expect(readPage('docs/troubleshooting.md')).toMatch(new RegExp(`^\\| ${code} \\| `, 'mu'));
});

test('docs/formats.md names every key of a student file, every metric and every file of a run', () => {
  const page = readPage('docs/formats.md');
  const keysOf = (file: string, name: string) => {
    const [, body = ''] =
      new RegExp(`export interface ${name}[^{]*\\{([\\s\\S]*?)^\\}`, 'mu').exec(
        readFileSync(join(root, file), 'utf8'),
      ) ?? [];
    return [...body.matchAll(/^ {2}(\w+)\??:/gmu)].map(([, key]) => key!);
  };
  const keys = [
    ...keysOf('lib/models/student-info.ts', 'StudentInfo'),
    ...keysOf('lib/addon/native-types.ts', 'SemanticMetrics'),
    ...keysOf('lib/train/events.ts', 'StepEvent'),
    ...keysOf('lib/train/events.ts', 'EvaluationEvent'),
  ];
  expect(keys.length).toBeGreaterThan(30);
  for (const key of keys.filter((name) => name !== 'logged')) expect(page, key).toContain(`\`${key}\``);
  const [, entries = ''] = /ownEntries = new Set\(\[([^\]]*)\]/u.exec(
    readFileSync(join(root, 'lib/runs/run-folder.ts'), 'utf8'),
  )!;
  for (const [, name] of entries.matchAll(/'([^']+)'/gu)) expect(page, name).toContain(`\`${name}`);
});

test('README.md names every student', () => {
  for (const name of listStudents()) expect(readPage('README.md'), name).toMatch(new RegExp(`\\b${name}\\b`, 'u'));
});

test.each(tools)('docs/export.md names the families that %s has, or those that it lacks', (tool) => {
  const [, cell = ''] =
    new RegExp(`\\n\\| \`${tool}\` \\|.*\\| ([^|]+) \\|\\n`, 'u').exec(readPage('docs/export.md')) ?? [];
  const families = Object.keys(namings).sort((a, b) => b.length - a.length) as StudentFamily[];
  const plain = (text: string) => text.toLowerCase().replaceAll(/[^a-z0-9]/gu, '');
  let rest = plain(cell);
  const named = families.filter((family) => {
    const before = rest;
    rest = rest.replaceAll(plain(family), '|'); // the longest first: efficientnet is also part of efficientnet_lite
    return rest !== before;
  });
  const lacks = cell.startsWith('all but');
  expect(named).toEqual(families.filter((family) => (namings[family][tool] === undefined) === lacks));
});

test('every environment variable that the code reads is described', () => {
  const sources = ['lib', 'native'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => join(root, folder, name))
      .filter((path) => /\.(?:ts|cpp|cu|h)$/u.test(path)),
  );
  const variables = new Set(
    sources.flatMap((path) =>
      [
        ...readFileSync(path, 'utf8').matchAll(
          /env\['([A-Z_]+)'\]|getenv\("([A-Z_]+)"\)|\b((?:HF|XDG|TRANSFORMERS)_[A-Z_]+)\b/gu,
        ),
      ].map(([, a, b, c]) => (a ?? b ?? c)!),
    ),
  );
  expect(variables.size).toBeGreaterThan(10);
  const described = readPage('docs/options.md') + readPage('CONTRIBUTING.md');
  for (const variable of variables) expect(described, variable).toContain(`\`${variable}`);
});

describe('switches', () => {
  afterEach(() => vi.unstubAllEnvs());

  test('every one that the sources, tests and scripts read is known, and another is not', () => {
    const sources = ['lib', 'native', 'test', 'scripts', 'bench'].flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
        .filter((name) => /\.(?:ts|mjs|cpp|cu|h)$/u.test(name) && !name.includes('node_modules'))
        .map((name) => join(root, folder, name)),
    );
    const read = sources.flatMap((path) =>
      [...readFileSync(path, 'utf8').matchAll(/(?:\benv(?:\.|\[')|\("|= ")(LGDISTILL_[A-Z_0-9]+)/gu)].map(
        ([, name]) => name!,
      ),
    );
    expect(new Set(read).size).toBeGreaterThan(30);
    for (const name of [...read, 'LGDISTILL_GRAPH']) vi.stubEnv(name, '1');
    expect(unknownSwitches()).toEqual([{ name: 'LGDISTILL_GRAPH', mend: 'Did you mean LGDISTILL_GRAPHS?' }]);
  });

  test('every value that CONTRIBUTING names is allowed', () => {
    const pairs = [...readPage('CONTRIBUTING.md').matchAll(/`(LGDISTILL_[A-Z_]+)=([a-z0-9|\\]+)`/gu)].flatMap(
      ([, name, values]) => values!.split('\\|').map((value) => [name!, value] as const),
    );
    expect(pairs.length).toBeGreaterThan(25);
    for (const [name, value] of pairs) {
      if (value === 'n' || value === 'bytes') continue; // stand for numbers
      vi.stubEnv(name, value);
      checkSwitches();
      vi.unstubAllEnvs();
    }
  });
});

/** GitHub's anchor of a heading. */
const anchorOf = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\w\- ]/gu, '')
    .replaceAll(' ', '-');

describe('links', () => {
  test.each(pages)('%s', (page) => {
    for (const [, target = ''] of readPage(page).matchAll(/\]\(([^)\s]+)\)/gu)) {
      if (/^[a-z]+:/u.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? page : join(dirname(page), path);
      expect(existsSync(join(root, file)), `${page}: ${target}`).toBe(true);
      if (anchor === undefined) continue;
      const anchors = [...readPage(file).matchAll(/^#+ (.*)$/gmu)].map(([, heading]) => anchorOf(heading!));
      expect(anchors, `${page}: ${target}`).toContain(anchor);
    }
  });
});
