import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ensureBuilt } from '../cli/built.js';
import { root } from '../fixtures/child.js';

const folder = join(root, `build-test-${process.pid}`, 'types'); // below the root, where 'lgdistill' is this package
const strict = {
  strict: true,
  noUncheckedIndexedAccess: true,
  exactOptionalPropertyTypes: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts', 'lib.dom.d.ts'],
  types: ['node'],
};

beforeAll(async () => {
  await ensureBuilt();
  mkdirSync(folder, { recursive: true });
});
afterAll(() => rmSync(join(folder, '..'), { recursive: true, force: true }));

function faults(file: string, options: ts.CompilerOptions): string[] {
  return ts
    .getPreEmitDiagnostics(ts.createProgram([file], { ...strict, ...options }))
    .map(({ file: at, start, messageText }) => {
      const line = at && start !== undefined ? at.getLineAndCharacterOfPosition(start).line + 1 : '';
      return `${at?.fileName}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
    });
}

test.each([
  [
    'Node, import',
    'consumer.mts',
    { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext },
  ],
  [
    'Node, require',
    'consumer.cts',
    { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, skipLibCheck: true },
  ],
  [
    'a bundler',
    'consumer.ts',
    { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, skipLibCheck: true },
  ],
] as const)('the declarations hold for a strict user: %s', (_, name, options) => {
  copyFileSync(join(root, 'test/types/consumer.ts'), join(folder, name));
  expect(faults(join(folder, name), options)).toEqual([]);
});

test('a wrong call is seen', () => {
  writeFileSync(join(folder, 'wrong.mts'), "import { openDevice } from 'lgdistill';\nawait openDevice(3);\n");
  expect(
    faults(join(folder, 'wrong.mts'), {
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      skipLibCheck: true,
    }),
  ).toEqual([expect.stringContaining('wrong.mts:2')]);
});
