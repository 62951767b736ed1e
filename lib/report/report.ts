/** Reports on one or more runs, as one HTML file that needs nothing else. */
import { dirname, resolve } from 'node:path';
import { checkOptions, checkText, optionTable } from '../arguments.js';
import type { ConfigInput } from '../config/config.js';
import { optionOf } from '../config/option-paths.js';
import { openImages } from '../data/open-images.js';
import { openDevice, type Device, type DeviceName } from '../device.js';
import { LgdError, throwIfAborted } from '../errors.js';
import { tryFolder } from '../files/make-folder.js';
import { checkReplaceable } from '../files/replaceable.js';
import { writeFileAtomically } from '../files/write-file.js';
import { lookAtTeacher } from '../models/teachers/load.js';
import { version } from '../package.js';
import type { PhaseProgress } from '../runs/phase.js';
import { CategoryList } from '../text/names.js';
import { anchorGallery } from './anchors.js';
import { readAssets } from './assets.js';
import { readBanks } from './banks.js';
import { curvesOf, makeCharts, type RunCurves } from './charts.js';
import { confusionOf } from './confusion.js';
import { renderPage } from './html.js';
import { mapBanks } from './map.js';
import { chooseRuns, readRuns, reportIn, type RunFacts } from './read-run.js';
import { section, type RunSections } from './section.js';
import { configDifferences, summarise, type RunSummary } from './summary.js';

export interface ReportOptions {
  /** Run folders. */
  runs: readonly string[];
  /** The file to write; default: report.html in the first run's folder. */
  output?: string | undefined;
  /**
   * `false`: only what the run folders tell, nothing computed by a model (the gallery and the confusion say so).
   * Default true.
   */
  models?: boolean | undefined;
  /** Folder of training images for the gallery; default: each run's own data.train. */
  images?: string | undefined;
  /** Teacher for the gallery and the confusion; default: each run's own. */
  teacher?: string | undefined;
  /** Folder of class folders for the confusion; default: each run's own evaluate.data. */
  evaluate?: string | undefined;
  /** Names to choose among in the confusion, as `evaluate.names`; default: each run's own. */
  evaluateNames?: string | readonly string[] | undefined;
  /** Images that the gallery and the confusion look at, at most, each; default {@link reportDefaults}. */
  mostImages?: number | undefined;
  /** Bytes of the gallery's pictures, of all runs together; default {@link reportDefaults}. */
  mostImageBytes?: number | undefined;
  /** Default 'auto'. */
  device?: DeviceName | undefined;
  threads?: number | undefined;
  /** Take models from local folders and the cache only. Default false. */
  localFilesOnly?: boolean | undefined;
  signal?: AbortSignal | undefined;
  /** Called while images are decoded and embedded. */
  onProgress?: ((progress: PhaseProgress) => void) | undefined;
}

const reportOptions = optionTable<ReportOptions>()(
  `runs output? models? images? teacher? evaluate? evaluateNames? mostImages? mostImageBytes?
  device? threads? localFilesOnly? signal? onProgress?`,
);

/** Defaults of {@link ReportOptions}: images looked at, and bytes of pictures. */
export const reportDefaults = { mostImages: 1000, mostImageBytes: 3e6 };

export interface ReportResult {
  file: string;
  bytes: number;
  /** Bytes of the gallery's pictures, part of {@link bytes}. */
  imageBytes: number;
  runs: RunSummary[];
  /** Names paths among several that were passed over, as they are no run folders. */
  remarks: string[];
  /** What could not be shown, and why. */
  missing: { run: string; section: 'map' | 'gallery' | 'confusion'; reason: string }[];
}

const sectionNames = ['map', 'gallery', 'confusion'] as const;

/**
 * Writes a report. Of several paths those that are no run folders are passed over. A section whose teacher, images or
 * checkpoint are not there any more says so in its place; those that the options name must be there.
 * @throws LgdError BAD_OPTION (no run; a file that is no report in the place of the output), FILE_NOT_FOUND (no run
 *   folder; a path that is not there), BAD_DATASET, BAD_MODEL, BAD_FILE, NOT_WRITABLE, DEPENDENCY_MISSING (uplot), DEVICE_UNAVAILABLE, ABORTED
 */
export async function writeReport(options: ReportOptions): Promise<ReportResult> {
  checkOptions(options, 'writeReport()', reportOptions);
  if (options.images !== undefined) checkText(options.images, 'images', 'a folder of images');
  const { folders, remarks } = await chooseRuns(options.runs);
  const runs: RunFacts[] = [];
  const summaries: RunSummary[] = [];
  const curves: RunCurves[] = [];
  for await (const { steps, ...facts } of readRuns(folders)) {
    runs.push(facts);
    summaries.push(summarise({ steps, ...facts }));
    curves.push(curvesOf({ steps, ...facts }));
  }
  const output = resolve(options.output ?? reportIn(folders[0]!));
  await checkReplaceable(output, 'report', { option: 'output' });
  const removeEmpty = await tryFolder(dirname(output));
  try {
    await checkGiven(options, runs);
    return await write(output, { runs, summaries, curves, remarks }, options);
  } finally {
    await removeEmpty();
  }
}

/** Computes a report on runs that were read, and writes it. */
async function write(
  output: string,
  {
    runs,
    summaries,
    curves,
    remarks,
  }: { runs: readonly RunFacts[]; summaries: RunSummary[]; curves: readonly RunCurves[]; remarks: string[] },
  options: ReportOptions,
): Promise<ReportResult> {
  const assets = await readAssets();
  const sections = await computeSections(runs, options);
  const document = renderPage(
    {
      title: runs.length === 1 ? runs[0]!.name : `${runs.length} runs`,
      made: new Date().toISOString(),
      version,
      summaries,
      differences: configDifferences(runs),
      charts: makeCharts(runs, curves),
      sections,
    },
    assets,
  );
  await writeFileAtomically(output, document);
  return {
    file: output,
    bytes: Buffer.byteLength(document),
    imageBytes: sections.reduce((sum, { gallery }) => sum + ('data' in gallery ? gallery.data.bytes : 0), 0),
    runs: summaries,
    remarks,
    missing: sections.flatMap((one) =>
      sectionNames.flatMap((name) => {
        const part = one[name];
        return 'missing' in part ? [{ run: one.name, section: name, reason: part.missing }] : [];
      }),
    ),
  };
}

/**
 * Whoever names a teacher or images means them: what is wrong with these is no missing section.
 * @throws LgdError of what is not there or is something else; BAD_OPTION where no model is to look at it, or names have
 *   no images to be chosen for
 */
async function checkGiven(options: ReportOptions, runs: readonly RunFacts[]): Promise<void> {
  const { models = true, images, teacher, evaluate, evaluateNames, localFilesOnly, signal } = options;
  if (!models) {
    const needless = (['images', 'teacher', 'evaluate', 'evaluateNames', 'mostImages'] as const).find(
      (option) => options[option] !== undefined,
    );
    if (needless === undefined) return;
    throw new LgdError('BAD_OPTION', 'has no use in a report without models.', {
      option: needless,
      found: options[needless],
      mend: 'Leave it out, or allow models (on the command line: without --no-models)',
    });
  }
  if (
    evaluateNames !== undefined &&
    evaluate === undefined &&
    runs.every(({ config }) => optionOf(config, 'evaluate.data') === undefined)
  )
    throw new LgdError('BAD_OPTION', 'needs labelled images, of which no run names any.', {
      option: 'evaluateNames',
      found: evaluateNames,
      mend: 'Give a folder of class folders (evaluate; on the command line: --evaluate), or leave it out',
    });
  if (teacher !== undefined) await lookAtTeacher(teacher, { localFilesOnly, signal });
  if (evaluateNames !== undefined) await CategoryList.load(evaluateNames);
  if (images !== undefined) await openImages(images, { labels: 'none', signal });
  if (evaluate !== undefined) await openImages(evaluate, { labels: 'folders', signal });
}

async function computeSections(runs: readonly RunFacts[], options: ReportOptions): Promise<RunSections[]> {
  const { models = true, device: name = 'auto', threads, signal } = options;
  if (!models) {
    const without = { missing: 'it was left out, as it needs a model and images; lgdistill report computes it.' };
    const maps = runs.map(async (run) => ({
      name: run.name,
      map: await section(async () => mapBanks(await readBanks(run.path))),
      gallery: without,
      confusion: without,
    }));
    return Promise.all(maps);
  }
  using device = await openDevice(name, { threads });
  const results: RunSections[] = [];
  for (const run of runs) {
    throwIfAborted(signal, 'the report');
    const banks = await section(() => readBanks(run.path));
    results.push({
      name: run.name,
      map: 'missing' in banks ? banks : await section(() => mapBanks(banks.data)),
      gallery:
        'missing' in banks
          ? banks
          : await section(() => anchorGallery(banks.data, galleryOptions(run, device, options, runs.length))),
      confusion: await section(() => confusionOf(confusionOptions(run, options))),
    });
  }
  return results;
}

function galleryOptions(
  run: RunFacts,
  device: Device,
  options: ReportOptions,
  runs: number,
): Parameters<typeof anchorGallery>[1] {
  const {
    mostImages = reportDefaults.mostImages,
    mostImageBytes = reportDefaults.mostImageBytes,
    localFilesOnly = false,
    signal,
    onProgress,
  } = options;
  return {
    device,
    localFilesOnly,
    mostImages,
    mostBytes: mostImageBytes / runs,
    signal,
    onProgress,
    images: needed(
      options.images ?? optionOf(run.config, 'data.train'),
      'data.train',
      'the folder of training images',
      'images',
    ),
    teacher: needed(options.teacher ?? optionOf(run.config, 'teacher'), 'teacher', 'the teacher', 'teacher'),
    teacherResolution: optionOf(run.config, 'teacherResolution') as number | undefined,
  };
}

function confusionOptions(
  run: RunFacts,
  {
    mostImages = reportDefaults.mostImages,
    device = 'auto',
    threads,
    localFilesOnly = false,
    teacher,
    evaluate,
    evaluateNames,
    signal,
    onProgress,
  }: ReportOptions,
): Parameters<typeof confusionOf>[0] {
  const own = (option: string) => optionOf(run.config, option) as never;
  const config: ConfigInput = {
    device,
    threads,
    offline: localFilesOnly,
    teacher: teacher ?? own('teacher'),
    teacherResolution: own('teacherResolution'),
    textEncoder: own('textEncoder'),
    templates: own('templates') ?? undefined,
    evaluate: {
      data: needed(
        evaluate ?? optionOf(run.config, 'evaluate.data'),
        'evaluate.data',
        'a folder of class folders',
        'evaluate',
      ),
      names: evaluateNames ?? own('evaluate.names'),
      bank: own('evaluate.bank'),
      mapping: own('evaluate.mapping'),
    },
  };
  return { run: run.path, config, mostImages, signal, onProgress };
}

function needed(value: unknown, option: string, what: string, flag: string): string {
  if (typeof value === 'string') return value;
  throw new LgdError('BAD_CONFIG', `the run's configuration does not name ${what}.`, {
    option,
    mend: `Give it to the report: --${flag}`,
  });
}
