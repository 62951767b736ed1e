/**
 * What callers without types get wrong before any value is looked at: a promise that was not awaited, nothing at all,
 * an object of another kind. Objects are told by their members, not by their classes, of which `import` and `require`
 * load different ones; typed arrays by node:util, as under Jest the addon's are of another realm than the caller's.
 */
import { types } from 'node:util';
import { LgdError } from './errors.js';
import { suggestion } from './text/spelling.js';

/** Of each kind of object that calls take: what gives one, and members that it has, `()` behind those that are called. */
const kinds = {
  device: ['the device that `await openDevice()` gives', 'addon synchronize()'],
  teacher: ['what `await loadTeacher()` gives, or a teacher of your own', 'kind embeddingSize resolution mean std'],
  'native teacher': ['what `await loadTeacher()` gives', 'compile() fingerprint() device'],
  'onnx teacher': ['what `await loadTeacher()` gives', 'embed() fingerprint()'],
  'custom teacher': ['of kind custom: with embed(pixels, batch) and fingerprint()', 'embed() fingerprint()'],
  'precomputed teacher': ['of kind precomputed: with lookup(ids) and has(id)', 'lookup() has()'],
  student: ['what createStudent() gives', 'graph compile() embeddingSize'],
  tsb: ['what `await TextualSemanticsBank.build()` gives', 'names data embeddingSize'],
  encoder: [
    'what `await ClipTextEncoder.load()` gives, or a text encoder of your own',
    'encode() countTokens() embeddingSize',
  ],
  source: ['what `await openImages()` or imagesFromBuffers() gives, or { root, ids, read }', 'ids read'],
  dataset: ['what `await ImageCache.build()` gives', 'length ids sourceIndex'],
  images: ['what `await ImageCache.build()` gives', 'length sourceIndex'],
  compiled: ['what student.compile() gives', 'graph makeImages() output'],
  batch: [
    '{ ...plan.next(), dataset }, with the plan a BatchPlan and the data set an ImageCache',
    'images drawIds dataset',
  ],
  ticket: ['what `await distiller.queueStep()` gives', 'slots'],
  state: ['what `await distiller.state()` gives', 'weights momentum semantic'],
  evaluation: ['what `new ZeroShotEvaluation()` gives', 'mark() evaluateEncoder() evaluateTeacher()'],
  frozen: ['what `new FrozenEvaluation()` gives', 'mark() evaluate()'],
  set: ['what `await readCoco()` gives', 'images names'],
  distiller: ['what `new Distiller()` gives', 'config students queueStep()'],
  graph: ['what finish() of a GraphBuilder, or studentGraph(), gives', 'nodes parameters'],
  report: ['what `await list.check()` gives', 'exactDuplicates nearDuplicates mended'],
  machine: ['what `await readMachine()` gives', 'cores memory vectors'],
  classification: ['what `await classifyImages()` gives', 'ids names top indices cosines'],
  online: ['{ images, labels, mean, std }', 'images labels mean std'],
} as const satisfies Record<string, readonly [what: string, members: string]>;

/**
 * Looks whether an argument is of its kind, by its members; the values of those are another matter.
 * @param option what the caller knows it by
 * @throws LgdError BAD_OPTION
 */
export function checkArgument(kind: keyof typeof kinds, value: unknown, option: string = kind): void {
  const [allowed, listed] = kinds[kind];
  if (typeof value === 'object' && value !== null) {
    const members = listed.split(' ').map((member) => {
      const name = member.replace('()', '');
      return { name, isCalled: name !== member, found: (value as Readonly<Record<string, unknown>>)[name] };
    });
    const missing = members.flatMap(({ name, found }) => (found == null ? [name] : []));
    if (missing.length === 0) {
      const wrong = members.find(({ isCalled, found }) => isCalled && typeof found !== 'function');
      if (wrong === undefined) return;
      throw new LgdError('BAD_OPTION', 'not a function.', {
        option: `${option}.${wrong.name}`,
        found: wrong.found,
        allowed,
      });
    }
    if (missing.length < members.length)
      throw new LgdError('BAD_OPTION', `this has no ${missing.join(', ')}.`, { option, found: value, allowed });
  }
  throw wrongArgument(value, option, allowed);
}

/** Looks whether a teacher, which may be a caller's own, has what its kind needs. @throws LgdError BAD_OPTION */
export function checkTeacherKind(teacher: { kind: string; id: string }): void {
  checkText(teacher.id, 'teacher.id', 'a name of the teacher');
  const kind = typeof teacher.kind === 'string' ? `${teacher.kind} teacher` : '';
  if (!Object.hasOwn(kinds, kind)) {
    throw new LgdError('BAD_OPTION', 'there is no such kind of teacher.', {
      option: 'teacher.kind',
      found: teacher.kind,
      allowed: 'native, onnx, custom, precomputed',
      mend: 'Call one of your own custom, if it embeds pixels, or precomputed',
    });
  }
  checkArgument(kind as keyof typeof kinds, teacher, 'teacher');
}

/** The names of a call's options, and which of them have no default. {@link checkOptions} and its messages go by it. */
export type OptionTable<Options> = {
  readonly [Name in keyof Options]-?: object extends Pick<Options, Name> ? 'optional' : 'needed';
};

/** The names of options as their type spells them: `name?` where they may be left out. */
type Spelled<Options> = {
  [Name in keyof Options & string]-?: object extends Pick<Options, Name> ? `${Name}?` : Name;
}[keyof Options & string];
type Words<Text extends string> = Text extends `${infer Line}\n${infer Rest}`
  ? Words<Line> | Words<Rest>
  : Text extends `${infer First} ${infer Rest}`
    ? Words<First> | Words<Rest>
    : Text extends ''
      ? never
      : Text;

/** Text whose words are all of the options, and nothing else; any other does not compile, and the error names them. */
type Listing<Options, Text extends string> = [Words<Text>, Spelled<Options>] extends [Spelled<Options>, Words<Text>]
  ? Text
  : { unknown: Exclude<Words<Text>, Spelled<Options>>; missing: Exclude<Spelled<Options>, Words<Text>> };

/**
 * The table of options that are listed once beside their type: `optionTable<SaveOptions>()('file overwrite?')`.
 * @returns of the names of a call's own options, and the table of those that it shares with others, the table of both
 */
export function optionTable<Options>(): <Text extends string, Shared extends Partial<OptionTable<Options>> = object>(
  names: Listing<Omit<Options, keyof Shared>, Text>,
  shared?: Shared,
) => OptionTable<Options> {
  return (names, shared) => {
    const words: readonly string[] = (names as string).match(/\S+/gu) ?? [];
    const entries = words.map((name) => (name.endsWith('?') ? [name.slice(0, -1), 'optional'] : [name, 'needed']));
    return { ...Object.fromEntries(entries), ...shared } as OptionTable<Options>;
  };
}

/**
 * Looks whether there are options, and none that the call does not know: one with a slip in its name would be as good
 * as not given, without a word.
 * @param call what was called
 * @param known its options
 * @throws LgdError BAD_OPTION
 */
export function checkOptions(
  options: unknown,
  call: string,
  known: Readonly<Record<string, 'needed' | 'optional'>>,
): void {
  const names = Object.keys(known);
  const needed = names.filter((name) => known[name] === 'needed');
  checkGiven(options, call, (needed.length > 0 ? needed : names).join(', '));
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(known, name)) continue;
    throw new LgdError('BAD_OPTION', `${call} has no such option.`, {
      option: name,
      allowed: names.join(', '),
      mend: suggestion(name, names) ?? 'Leave it out',
    });
  }
}

/** Those of a call's options that another call knows too, which gets them from it. */
export function optionsFor<Options extends object, Known extends object>(
  options: Options,
  known: Known,
): Pick<Options, keyof Options & keyof Known> {
  return Object.fromEntries(Object.entries(options).filter(([name]) => Object.hasOwn(known, name))) as Pick<
    Options,
    keyof Options & keyof Known
  >;
}

/**
 * Looks whether there is an object at all; it may hold more than the call needs.
 * @param call what was called
 * @param needed what it cannot do without
 * @throws LgdError BAD_OPTION
 */
export function checkGiven(given: unknown, call: string, needed: string): asserts given is object {
  if (typeof given === 'object' && given !== null && !Array.isArray(given) && !isPromise(given)) return;
  throw wrongArgument(given, 'options', `an object with ${needed}`, `Call ${call} with { ${needed} }`);
}

/**
 * Bytes whose memory stays while they are read: a copy of those whose buffer may shrink, which would take it from under
 * a decoder and end the process.
 */
export function withFixedBuffer(bytes: Uint8Array): Uint8Array {
  return (bytes.buffer as { resizable?: boolean }).resizable === true ? new Uint8Array(bytes) : bytes;
}

/** @throws LgdError BAD_OPTION for anything but a string with something in it */
export function checkText(value: unknown, option: string, allowed: string): void {
  if (typeof value === 'string' && value !== '') return;
  throw wrongArgument(value, option, allowed);
}

/** Another word would be taken for one of them. @throws LgdError BAD_OPTION */
export function checkWord(found: unknown, option: string, words: readonly string[]): void {
  if (words.some((word) => word === found)) return;
  throw new LgdError('BAD_OPTION', 'not a word that this takes.', {
    option,
    found,
    allowed: words.join(', '),
    mend: typeof found === 'string' ? suggestion(found, words) : undefined,
  });
}

/**
 * The embeddings that something gave which may be a caller's own: one of so many values for each of what it was given.
 * @param giver as it stands in the message
 * @throws LgdError BAD_SHAPE
 */
export function checkRows(
  given: unknown,
  giver: string,
  { option, rows, size }: { option: string; rows: number; size: number },
): Float32Array {
  if (types.isFloat32Array(given) && given.length === rows * size) return given;
  throw new LgdError('BAD_SHAPE', `${giver} did not give ${rows} embeddings.`, {
    option,
    found: given,
    allowed: `a Float32Array [${rows},${size}]`,
  });
}

/** @throws LgdError BAD_OPTION for anything but an array of texts, each with something in it */
export function checkTexts(value: unknown, option: string, allowed: string): void {
  if (!Array.isArray(value)) throw wrongArgument(value, option, `an array, each of them ${allowed}`);
  for (const [place, one] of value.entries()) checkText(one, `${option}[${place}]`, allowed);
}

function wrongArgument(found: unknown, option: string, allowed: string, mend?: string): LgdError {
  if (isPromise(found))
    return new LgdError('BAD_OPTION', 'this is a promise.', {
      option,
      allowed,
      mend: 'Put await before the call that gave it',
    });
  const what = found === undefined ? 'this is missing.' : 'this is something else.';
  return new LgdError('BAD_OPTION', what, { option, found, allowed, mend });
}

export function isPromise(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'then' in value;
}
