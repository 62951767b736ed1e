import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, sep } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ensureBuilt } from '../cli/built.js';
import { root } from '../fixtures/child.js';

const folder = join(root, `build-test-${process.pid}`, 'options');

beforeAll(async () => {
  await ensureBuilt();
  mkdirSync(folder, { recursive: true });
});
afterAll(() => rmSync(join(folder, '..'), { recursive: true, force: true }));

/**
 * The members that callers give to what a package exports, as far as they may be left out: all that arguments are made
 * of, but for objects of classes and what functions among them get.
 * @returns of each, as 'type.member' (or '.member', of a type without a name), whether it takes undefined, too
 */
function optionalMembers(entry: string): Map<string, boolean> {
  const program = ts.createProgram([entry], {
    strict: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts', 'lib.dom.d.ts'],
    types: ['node'],
    skipLibCheck: true,
  });
  const checker = program.getTypeChecker();
  const isOwn = (node: ts.Node) => node.getSourceFile().fileName.startsWith(join(entry, '..').split(sep).join('/'));
  const found = new Map<string, boolean>();
  const seen = new Set<ts.Type>();
  const look = (type: ts.Type): void => {
    if (seen.has(type)) return;
    seen.add(type);
    if (type.isUnionOrIntersection()) return type.types.forEach(look);
    if (checker.isArrayType(type) || checker.isTupleType(type))
      return checker.getTypeArguments(type as ts.TypeReference).forEach(look);
    if (type.symbol?.declarations?.some(ts.isClassDeclaration)) return;
    for (const member of type.getProperties()) {
      const declared = member.declarations?.filter(ts.isPropertySignature).find(isOwn);
      if (declared === undefined) continue;
      if (declared.questionToken && declared.type) {
        const { parent } = declared;
        const parts = ts.isUnionTypeNode(declared.type) ? declared.type.types : [declared.type];
        found.set(
          `${ts.isInterfaceDeclaration(parent) ? parent.name.text : ''}.${member.name}`,
          parts.some(({ kind }) => kind === ts.SyntaxKind.UndefinedKeyword),
        );
      }
      look(checker.getTypeOfSymbol(member));
    }
  };
  const lookAtCalls = (type: ts.Type): void => {
    for (const { parameters } of [...type.getCallSignatures(), ...type.getConstructSignatures()])
      for (const parameter of parameters) look(checker.getTypeOfSymbol(parameter));
  };
  for (const exported of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(entry)!)!)) {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    if (symbol.valueDeclaration === undefined) continue;
    const type = checker.getTypeOfSymbol(symbol);
    lookAtCalls(type);
    if (!ts.isClassDeclaration(symbol.valueDeclaration)) continue;
    for (const method of [...type.getProperties(), ...checker.getDeclaredTypeOfSymbol(symbol).getProperties()])
      if (method.declarations?.some(isOwn)) lookAtCalls(checker.getTypeOfSymbol(method));
  }
  return found;
}

const forgotten = (found: Map<string, boolean>) => [...found].filter(([, takes]) => !takes).map(([name]) => name);

// Under exactOptionalPropertyTypes `x?: T` refuses a value that may be undefined, which the library takes as not given.
test('whatever may be left out may be undefined', () => {
  const found = optionalMembers(join(root, 'dist', 'index.d.ts'));
  expect(found.get('DeviceOptions.threads')).toBe(true);
  expect(found.size).toBeGreaterThan(250);
  expect(forgotten(found)).toEqual([]);
});

test('one that may not is seen, wherever it is', () => {
  const entry = join(folder, 'index.d.ts');
  writeFileSync(
    entry,
    `export interface Inner { kept?: number | undefined; nested?: string }
     export interface Options { inner?: readonly Inner[] | undefined; told?: ((result: { answer?: 1 }) => void) | undefined }
     export declare function run(options: Options, more: { plain?: 5 }): { given?: true };
     export declare class Runner { static open(options: { static?: 1 }): Runner; private constructor(); own?: 1; go(options?: { method?: 1 }): void }`,
  );
  expect(forgotten(optionalMembers(entry)).sort()).toEqual(['.method', '.plain', '.static', 'Inner.nested']);
});
