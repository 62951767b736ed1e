import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../../lib/addon/addon.js';
import { nativeFunctions, type NativeAddon } from '../../lib/addon/native.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

function filesBelow(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => pattern.test(name))
    .map((name) => `${folder}/${name}`);
}

/** Rank of a file by the first prefix that fits; higher layers may import lower ones and their own. */
function rankOf(file: string, layers: readonly (readonly string[])[]): number {
  const rank = layers.findIndex((prefixes) => prefixes.some((prefix) => file.startsWith(prefix)));
  expect(rank, `${file} belongs to no layer: give it a place in test/unit/layers.test.ts`).toBeGreaterThanOrEqual(0);
  return rank;
}

/**
 * Files that import each other in a circle, types too: of each circle that a walk from file to file comes upon, the way
 * round.
 */
function circlesAmong(files: readonly string[], importsOf: (file: string) => string[]): string[] {
  const circles: string[] = [];
  const done = new Set<string>();
  const walk = (file: string, way: readonly string[]): void => {
    if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file].join(' -> '));
    if (way.includes(file) || done.has(file)) return;
    for (const other of importsOf(file)) walk(other, [...way, file]);
    done.add(file);
  };
  for (const file of files) walk(file, []);
  return circles;
}

function upwardImports(
  files: string[],
  importsOf: (file: string) => string[],
  layers: readonly (readonly string[])[],
): string[] {
  return files.flatMap((file) =>
    importsOf(file)
      .filter((other) => rankOf(other, layers) > rankOf(file, layers))
      .map((other) => `${file} -> ${other}`),
  );
}

// Of what the commands call, these are no work of theirs: spelling, quoting, lists of options, and places in the
// terminal.
const cliOnly = new Set([
  'suggestion',
  'isOfOwnCommand',
  'builtinIds',
  'isAmong',
  'kebab',
  'beginning',
  'ending',
  'checkFree',
  'classesAsCsv',
  'classesFormat',
  'checkKnownStudents',
  'checkNamesFile',
  'checkPackPlace',
  'checkTensorBoardFolder',
  'checkReplaceable',
  'counted',
  'tellingOfWaits',
  'tryFolder',
  'describeStandstill',
  'messageOf',
  'nameWithWidth',
  'noTowerBeside',
  'shellWord',
  'quoted',
  'requireNames',
]);

it('whatever a command does can be done from the API', async () => {
  const exported = Object.keys(await import('../../lib/index.js'));
  const used = filesBelow('lib/cli', /\.ts$/).flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(/import \{([^}]*)\} from '\.\.\//g)].flatMap(([, names]) =>
      names!
        .split(',')
        .map((name) => name.trim())
        .filter((name) => name !== '' && !name.startsWith('type ')),
    ),
  );
  expect(used.length).toBeGreaterThan(20);
  expect(used.filter((name) => !exported.includes(name) && !cliOnly.has(name))).toEqual([]);
});

it('what a file of lib exports is imported somewhere, or public', () => {
  const files = ['lib', 'test', 'scripts', 'bench', 'examples']
    .flatMap((folder) => filesBelow(folder, /\.(?:c?ts|m?js)$/))
    .map((file) => [file, readFileSync(join(root, file), 'utf8')] as const);
  const namesOf = (list: string) =>
    list.split(',').map(
      (name) =>
        name
          .trim()
          .replace(/^type /, '')
          .split(/ as |:/)[0]!,
    );
  const wanted = new Set(
    files.flatMap(([, text]) => [
      ...[...text.matchAll(/(?:import|export)(?: type)? (?:\w+, )?\{([^}]*)\}/g)].flatMap(([, list]) => namesOf(list!)),
      ...[...text.matchAll(/\{([^{}]*)\} = \(?(?:await )?import\(/g)].flatMap(([, list]) => namesOf(list!)),
      ...[...text.matchAll(/\.(\w+)/g)].map(([, name]) => name!), // of a module as a whole
    ]),
  );
  const exported = files
    .filter(([file]) => file.startsWith('lib/'))
    .flatMap(([file, text]) =>
      [...text.matchAll(/^export (?:async )?(?:const|function\*?|class) (\w+)/gm)].map(
        ([, name]) => `${file}: ${name}`,
      ),
    );
  expect(exported.length).toBeGreaterThan(300);
  expect(exported.filter((entry) => !wanted.has(entry.split(': ')[1]!))).toEqual([]);
});

function importsInLib(file: string): string[] {
  return [...readFileSync(join(root, file), 'utf8').matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map((match) =>
    normalize(join(dirname(file), match[1]!)).replace(/\.js$/, '.ts'),
  );
}

describe('imports point down the layers', () => {
  it('in lib', () => {
    const layers = [
      [
        'lib/errors',
        'lib/arguments',
        'lib/averages',
        'lib/concatenate',
        'lib/counted',
        'lib/files/',
        'lib/lifetime',
        'lib/machine/memory',
        'lib/number-limits',
        'lib/package',
        'lib/principal-axes',
        'lib/semantic/types',
        'lib/shell',
        'lib/stall',
        'lib/switches',
        'lib/turn',
        'lib/text/spelling',
      ],
      ['lib/addon/', 'lib/device', 'lib/hub/', 'lib/onnx/'],
      ['lib/semantic/'],
      ['lib/config/', 'lib/models/', 'lib/banks/', 'lib/data/', 'lib/text/'],
      ['lib/runs/'],
      ['lib/evaluate/', 'lib/dense/', 'lib/export/', 'lib/predict/'],
      ['lib/train/', 'lib/machine/'],
      ['lib/report/'],
      ['lib/index', 'lib/cli/'],
    ];
    expect(upwardImports(filesBelow('lib', /\.ts$/), importsInLib, layers)).toEqual([]);
  });

  it('and never in a circle', () => {
    expect(circlesAmong(filesBelow('lib', /(?<!\.d)\.ts$/), importsInLib)).toEqual([]);
  });

  it('in native', () => {
    const layers = [
      ['native/core/'],
      ['native/ops/'],
      ['native/graph/', 'native/semantic/', 'native/augment/', 'native/optimizer/'],
      ['native/engine.h'],
      ['native/binding/'],
    ];
    const exceptions = [
      // a device carries its table of operations; engine_core implements engine.h
      /^native\/core\/(device|engine_core)\.cpp -> native\/(ops\/|engine\.h)/,
      /^native\/ops\/kernels\.h -> native\/optimizer\/(?:sgd|adamw|clip_norm)\.h/, // the optimisers are operations of the table
      /^native\/(graph|semantic|augment)\/[\w.]+ -> native\/engine\.h/, // the implementation of what engine.h declares
    ];
    const importsOf = (file: string) =>
      [...readFileSync(join(root, file), 'utf8').matchAll(/#include "([^"]+)"/g)]
        .map((match) => `native/${match[1]!}`)
        .filter((name) => !name.includes('/../'));
    const files = filesBelow('native', /\.(h|cpp|inl|cu|cuh)$/);
    expect(
      upwardImports(files, importsOf, layers).filter((line) => !exceptions.some((exception) => exception.test(line))),
    ).toEqual([]);
  });

  it('and the binding knows the engine by engine.h alone', () => {
    for (const file of filesBelow('native/binding', /\.(h|cpp)$/)) {
      const included = [...readFileSync(join(root, file), 'utf8').matchAll(/#include "([^"]+)"/g)].map(
        (match) => match[1]!,
      );
      expect(
        included.filter((name) => name !== 'engine.h' && !name.startsWith('binding/')),
        file,
      ).toEqual([]);
    }
    const withNapi = filesBelow('native', /\.(h|cpp|inl|cu|cuh)$/).filter((file) =>
      readFileSync(join(root, file), 'utf8').includes('napi.h'),
    );
    expect(withNapi.filter((file) => !file.startsWith('native/binding/'))).toEqual([]);
  });

  it("and kernels' files read none of the standard library's long headers, which nvcc reads again and again", () => {
    const long =
      /^(?:core\/device\.h|engine\.h|chrono|condition_variable|functional|future|memory|mutex|random|sstream|string|thread)$/;
    const readBy = (file: string, seen = new Set<string>()): Set<string> => {
      for (const [, own, standard] of readFileSync(join(root, file), 'utf8').matchAll(
        /#include (?:"([^"]+)"|<([^>]+)>)/g,
      )) {
        const name = own ?? standard!;
        if (seen.has(name)) continue;
        seen.add(name);
        if (own !== undefined) readBy(`native/${own}`, seen);
      }
      return seen;
    };
    const kernels = filesBelow('native', /\.cu$/).filter((file) => file !== 'native/core/cuda_runtime.cu');
    expect(kernels.length).toBeGreaterThan(30);
    const withLong = kernels.filter((file) => [...readBy(file)].some((name) => long.test(name)));
    expect(withLong).toEqual(['native/augment/augment.cu']); // its images lie where engine.h says
  });
});

describe('the addon', () => {
  it('exports what lib/addon/native.ts mirrors, no more and no less', () => {
    const list = readFileSync(join(root, 'native/binding/exports.h'), 'utf8');
    const exported = [...list.matchAll(/X\(\w+, "(\w+)"\)/g)].map((match) => match[1]!);
    expect(exported.sort()).toEqual([...nativeFunctions].sort());
    const addon: NativeAddon = loadAddon();
    for (const name of nativeFunctions) expect(typeof addon[name]).toBe('function');
  });
});
