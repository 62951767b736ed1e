import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { root } from '../fixtures/child.js';

const written = join(root, 'lib/config/input.ts');
const checked = join(root, 'test', 'types', 'config-input.ts');
const parsed = new Map<string, ts.SourceFile | undefined>();

/** What the compiler says where lib/config/input.ts reads otherwise. */
function faults(text: string): string[] {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.check.json'), (path) => ts.sys.readFile(path)) as {
    config: object;
  };
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, root);
  const host = ts.createCompilerHost(options);
  const { getSourceFile } = host;
  host.getSourceFile = (path, ...rest) => {
    if (path === written) return ts.createSourceFile(path, text, ts.ScriptTarget.ES2022);
    if (!parsed.has(path)) parsed.set(path, getSourceFile(path, ...rest));
    return parsed.get(path);
  };
  const program = ts.createProgram([checked], { ...options, noErrorTruncation: true }, host);
  return ts
    .getPreEmitDiagnostics(program, program.getSourceFile(checked))
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}

/** Of each kind of difference one: the leaf, and what is changed in it. */
const differences: readonly (readonly [what: string, leaf: string, from: string, to: string])[] = [
  [
    'another type',
    'train.learningRate',
    "learningRate?: 'auto' | number | undefined",
    'learningRate?: number | undefined',
  ],
  ['more than zod takes', 'train.epochs', 'epochs?: number | undefined', 'epochs?: number | string | undefined'],
  ['a word that is missing', 'train.precision', "'auto' | 'float32' | 'bfloat16'", "'auto' | 'float32'"],
  ['no list', 'names', 'names?: string | readonly string[] | undefined', 'names?: string | undefined'],
  ['a leaf that is missing', 'loss.queueSize', 'queueSize?: number | undefined;', ''],
  [
    'a leaf that zod does not know',
    'other',
    '  offline?: boolean | undefined;',
    '  offline?: boolean | undefined;\n  other?: string | undefined;',
  ],
  ['a leaf that must be given', 'seed', 'seed?: number | undefined', 'seed: number'],
  ['a group that must be given', 'log', '  log?:', '  log:'],
  ['a leaf in the place of a group', 'checkpoint', '  checkpoint?:', '  checkpoint?: number'],
  ['anything at all', 'student.name', 'name?: string | undefined', 'name?: any'],
];

test('ConfigInput is what zod takes', () => {
  expect(faults(readFileSync(written, 'utf8'))).toEqual([]);
});

test('every kind of difference is seen, and its leaf named', () => {
  const changed = differences.reduce(
    (text, [what, , from, to]) => {
      expect(text, what).toContain(from);
      return text.replace(from, to);
    },
    readFileSync(written, 'utf8'),
  );
  const [fault = '', ...others] = faults(changed);
  expect(others).toEqual([]);
  expect([...fault.matchAll(/"(\S+) differs"/gu)].map(([, leaf]) => leaf).sort()).toEqual(
    differences.map(([, leaf]) => leaf).sort(),
  );
});
