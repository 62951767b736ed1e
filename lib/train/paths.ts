/** The paths of a run's configuration. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Config } from '../config/config.js';

/** The same configuration with absolute paths, so that a run can be continued from another folder. */
export function absolutePaths(config: Config): Config {
  const path = (value: string) => resolve(value);
  // else an id, or the name of a built-in list
  const ifThere = <Value>(value: Value) => (typeof value === 'string' && existsSync(value) ? resolve(value) : value);
  const optional = (value: string | undefined) => (value === undefined ? undefined : path(value));
  const { data, evaluate, student, teacherCache } = config;
  return {
    ...config,
    output: path(config.output),
    bank: optional(config.bank),
    names: ifThere(config.names),
    templates: ifThere(config.templates),
    textEncoder: ifThere(config.textEncoder),
    teacher: ifThere(config.teacher),
    data: { ...data, train: optional(data.train), spillFolder: optional(data.spillFolder) },
    teacherCache: { ...teacherCache, file: optional(teacherCache.file) },
    student: { ...student, weights: optional(student.weights) },
    evaluate: {
      ...evaluate,
      data: optional(evaluate.data),
      train: optional(evaluate.train),
      output: optional(evaluate.output),
      names: ifThere(evaluate.names),
      bank: optional(evaluate.bank),
      mapping: optional(evaluate.mapping),
    },
  };
}

/** Where decoded images are kept. */
export function placesOf({ data, output }: Config): { memoryLimitBytes: number; spillFolder: string } {
  return { memoryLimitBytes: data.cacheMemory * 2 ** 20, spillFolder: data.spillFolder ?? output };
}
