/**
 * What callers without types get wrong before any value is looked at: a promise that was not awaited, nothing at all, an object of another kind. Objects are told by their members,
 * not by their classes, of which `import` and `require` load different ones.
 */
import { LgdError } from './errors.js';

/** Of each kind of object that calls take: what gives one, and members that it has. */
const kinds = {
  device: ['the device that `await openDevice()` gives', ['addon', 'synchronize']],
  teacher: ['what `await loadTeacher()` gives, or a teacher of your own', ['kind', 'embeddingSize', 'resolution', 'mean', 'std']],
  'native teacher': ['what `await loadTeacher()` gives', ['compile', 'fingerprint', 'device']],
  'onnx teacher': ['of kind onnx: with embed(pixels, batch) and fingerprint()', ['embed', 'fingerprint']],
  'precomputed teacher': ['of kind precomputed: with lookup(ids) and has(id)', ['lookup', 'has']],
  student: ['what createStudent() gives', ['graph', 'compile', 'embeddingSize']],
  tsb: ['what `await TextualSemanticsBank.build()` gives', ['names', 'data', 'embeddingSize']],
  encoder: ['what `await ClipTextEncoder.load()` gives, or a text encoder of your own', ['encode', 'countTokens', 'embeddingSize']],
  source: ['what `await openImages()` or imagesFromBuffers() gives, or { root, ids, read }', ['ids', 'read']],
  dataset: ['what `await ImageCache.build()` gives', ['length', 'ids', 'sourceIndex']],
  images: ['what `await ImageCache.build()` gives', ['length', 'sourceIndex']],
  compiled: ['what student.compile() gives', ['graph', 'makeImages', 'output']],
  batch: ['{ ...plan.next(), dataset }, with the plan a BatchPlan and the data set an ImageCache', ['images', 'drawIds', 'dataset']],
  ticket: ['what `await distiller.queueStep()` gives', ['slots']],
  state: ['what `await distiller.state()` gives', ['weights', 'momentum', 'semantic']],
} as const satisfies Record<string, readonly [string, readonly string[]]>;

/**
 * Looks whether an argument is of its kind, by its members; the values of those are another matter.
 * @param option what the caller knows it by
 * @throws LgdError BAD_OPTION
 */
export function checkArgument(kind: keyof typeof kinds, value: unknown, option: string = kind): void {
  const [allowed, members] = kinds[kind];
  if (typeof value === 'object' && value !== null && members.every((member) => member in value)) return;
  throw wrongArgument(value, option, allowed);
}

/** Looks whether a teacher, which may be a caller's own, has what its kind needs. @throws LgdError BAD_OPTION */
export function checkTeacherKind(teacher: { kind: string }): void {
  const kind = `${teacher.kind} teacher`;
  if (!(kind === 'native teacher' || kind === 'onnx teacher' || kind === 'precomputed teacher')) {
    throw new LgdError('BAD_OPTION', 'there is no such kind of teacher.', { option: 'teacher.kind', found: teacher.kind, allowed: 'native, onnx, precomputed', mend: 'Call one of your own onnx, if it embeds pixels, or precomputed' });
  }
  checkArgument(kind, teacher, 'teacher');
}

/**
 * Looks whether there are options at all.
 * @param call what was called; @param needed the options that have no default
 * @throws LgdError BAD_OPTION
 */
export function checkOptions(options: unknown, call: string, needed: string): void {
  if (typeof options === 'object' && options !== null && !isPromise(options)) return;
  throw wrongArgument(options, 'options', `an object with ${needed}`, `Call ${call} with { ${needed} }`);
}

/** @throws LgdError BAD_OPTION for anything but a string with something in it */
export function checkText(value: unknown, option: string, allowed: string): void {
  if (typeof value === 'string' && value !== '') return;
  throw wrongArgument(value, option, allowed);
}

function wrongArgument(found: unknown, option: string, allowed: string, mend?: string): LgdError {
  if (isPromise(found)) return new LgdError('BAD_OPTION', 'this is a promise.', { option, allowed, mend: 'Put await before the call that gave it' });
  const what = found === undefined ? 'this is missing.' : 'this is something else.';
  return new LgdError('BAD_OPTION', what, { option, found, allowed, mend });
}

function isPromise(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'then' in value;
}
