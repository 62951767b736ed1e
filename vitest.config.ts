import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const root = import.meta.dirname;

/** Files of several minutes: begun last, each would leave a core idle at the end. */
const long = [
  'test/native/emulated-programs.test.ts',
  'test/integration/cuda-students.test.ts',
  'test/integration/gpu-check.test.ts',
  'test/docs/shell.test.ts',
];

/**
 * A file that replaces modules or functions, or sets the environment, has a process of its own; the others share two,
 * which load the library once each. So has one that lists the calls of CUDA: what files before it left to be collected
 * would be freed in its list.
 */
const changesTheProcess = (file: string): boolean =>
  /\bvi\.(?:mock|spyOn)\(|process\.env\[.+?\] (?:\?\?)?= |\b(?:withFault|losableDisk|executePtx)\(/u.test(
    readFileSync(join(root, file), 'utf8'),
  );

const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => join('test', name));
const alone = files.filter(changesTheProcess);

/** Those that share a process come last: it serves as long as the next file shares it, too. */
class LongestFirst extends BaseSequencer {
  override async sort(specifications: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId, project }: TestSpecification) => {
      const place = long.findIndex((path) => moduleId.endsWith(path));
      return place >= 0 ? place : long.length + (project.name === 'alone' ? 0 : 1);
    };
    return (await super.sort(specifications)).sort((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    testTimeout: 300_000, // a busy machine takes five times as long as an idle one
    hookTimeout: 300_000,
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    projects: [
      { extends: true, test: { name: 'alone', include: alone } },
      { extends: true, test: { name: 'together', include: ['test/**/*.test.ts'], exclude: alone, isolate: false } },
    ],
  },
});
