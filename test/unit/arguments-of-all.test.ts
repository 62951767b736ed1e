/** Whatever is exported, called with values of every kind: an LgdError or a result, and nothing raw. */
import { describe, expect, it } from 'vitest';
import { LgdError } from '../../lib/errors.js';
import * as api from '../../lib/index.js';

type Anything = any; // eslint-disable-line @typescript-eslint/no-explicit-any
const js = api as Anything;

describe('anything at all', () => {
  /** What is made by other calls has a constructor all the same, which types hide. */
  const opened = new Set([
    'ImageCache',
    'StreamedImages',
    'NativeTeacher',
    'OnnxTeacher',
    'PrecomputedTeacher',
    'TeacherViewCache',
    'Segmenter',
    'Detector',
    'Classifier',
    'TextualSemanticsBank',
    'NativeTextEncoder',
    'ClipTextEncoder',
    'PackFile',
    'CategoryList',
    'Device',
  ]);
  const values = [undefined, null, 5, {}, 'nothing that is there', [], [5], true, () => 1];
  const members = Object.entries(js).filter(([name, value]) => typeof value === 'function' && name !== 'LgdError') as [
    string,
    Anything,
  ][];
  const isClass = (value: unknown) => Function.prototype.toString.call(value).startsWith('class');
  const calls = members
    .flatMap(([name, value]): [string, (...given: unknown[]) => unknown][] => [
      ...(!isClass(value)
        ? [[name, value] as [string, typeof value]]
        : opened.has(name)
          ? []
          : [[`new ${name}`, (...given: unknown[]) => new value(...given)] as [string, () => unknown]]),
      ...Object.getOwnPropertyNames(value)
        .filter((member) => isClass(value) && typeof value[member] === 'function')
        .map((member): [string, () => unknown] => [
          `${name}.${member}`,
          (...given: unknown[]) => value[member](...given),
        ]),
    ])
    .filter(([name]) => !['benchmark', 'inspectSystem', 'readMachine', 'suggestAnswers'].includes(name)); // which take long, and anything

  it('is refused as what it is, by whatever is exported', async () => {
    expect(calls.length).toBeGreaterThan(80);
    const raw: string[] = [];
    for (const [name, call] of calls) {
      for (const value of values) {
        for (const given of [[value], [value, value]]) {
          const error: unknown = await Promise.resolve()
            .then(async () => {
              const result = call(...given) as Anything;
              const found = typeof result?.next === 'function' ? await result.next() : await result;
              if (typeof found?.dispose === 'function') found.dispose();
            })
            .then(
              () => undefined,
              (reason: unknown) => reason,
            );
          if (error !== undefined && !(error instanceof LgdError))
            raw.push(`${name}(${given.map(String).join(', ')}): ${String(error)}`);
        }
      }
    }
    expect(raw).toEqual([]);
  });
});
