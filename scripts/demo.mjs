// Distils a student from the tiny CLIP in test/models on real drawings of emoji, and says what teacher and student
// score on a vendor neither has seen.
//   npm run demo -- [--full | --short] [--device auto|cpu|cuda[:N]|cuda-emulated] [--precision auto|float32|bfloat16]
//     [--threads N] [--seed N] [--output FOLDER] [--fresh] [--prepare FILE [--stored] | --prepared FILE]
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openDrawn, openPacked, prepare } from './demo/data.mjs';
import { presets, resolution } from './demo/presets.mjs';
import { measure, printTable, score, summarise } from './demo/report.mjs';
import { heldOutVendor } from './demo/vendors.mjs';

const usage = `npm run demo -- [options]
  --full            all 1,394 names, 120 epochs of batch 256: for a GPU
  --short           a few seconds of training: for checks
  --device <name>   auto, cpu, cuda, cuda:N or cuda-emulated [default auto]
  --precision <p>   auto, float32 or bfloat16, which the CPU simulates [default auto: bfloat16 on CUDA]
  --threads <n>     threads for work on the CPU [default: all cores]
  --seed <n>        of weights, shuffling and augmentation [default 0]
  --output <folder> for drawings, runs and summary.json [default runs/demo]
  --fresh           start anew where an interrupted run could be continued
  --prepare <file>  draw the data set and pack it with its text bank into one file, then stop
  --stored          with --prepare: drawings uncompressed, for a file that is compressed as a whole
  --prepared <file> run from such a file: needs no sharp, no transformers and none of the drawings' packages`;

const root = fileURLToPath(new URL('..', import.meta.url));
const teacherFolder = join(root, 'test', 'models', 'tiny-clip');
const say = (text) => console.log(text);

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        full: { type: 'boolean', default: false },
        short: { type: 'boolean', default: false },
        fresh: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
        device: { type: 'string', default: 'auto' },
        precision: { type: 'string', default: 'auto' },
        threads: { type: 'string' },
        seed: { type: 'string', default: '0' },
        output: { type: 'string', default: join(root, 'runs', 'demo') },
        prepare: { type: 'string' },
        stored: { type: 'boolean', default: false },
        prepared: { type: 'string' },
      },
    });
    const whole = (name, least) => {
      if (values[name] !== undefined && !(Number.isInteger(Number(values[name])) && Number(values[name]) >= least))
        throw new Error(`--${name} takes a whole number from ${least}`);
      return values[name] === undefined ? undefined : Number(values[name]);
    };
    if (values.full && values.short) throw new Error('--full and --short exclude each other');
    return {
      ...values,
      name: values.full ? 'full' : values.short ? 'short' : 'small',
      threads: whole('threads', 1),
      seed: whole('seed', 0),
    };
  } catch (error) {
    console.error(`${error.message}\n\n${usage}`);
    process.exit(2);
  }
}

/**
 * The first Ctrl-C stops after the step, with a checkpoint; the second at once. npm passes on what the terminal has
 * sent already, so an echo is no second one.
 */
function stopOnSignal() {
  const controller = new AbortController();
  let stopping;
  for (const name of ['SIGINT', 'SIGTERM']) {
    process.on(name, () => {
      if (performance.now() - stopping < 500) return;
      if (stopping !== undefined) process.exit(130);
      stopping = performance.now();
      console.error(`\n${name}: stopping after this step; once more to stop at once`);
      controller.abort(new Error(name));
    });
  }
  return controller.signal;
}

async function main(options, signal) {
  const lgd = await import('../dist/index.js').catch((cause) => {
    throw new Error(`the library is not built (${cause.message}); type: npm run build`, { cause });
  });
  const preset = presets[options.name];
  const images = join(options.output, 'images', `${(preset.groups ?? ['all']).join('+')}-${preset.drawingSize}`);
  if (options.prepare !== undefined) {
    const { prepare: file, stored } = options;
    await prepare(lgd, { preset, folder: images, file, stored, teacher: teacherFolder, signal, say });
    say(`written: ${options.prepare}`);
    return 0;
  }
  const device = await lgd.openDevice(options.device, { threads: options.threads });
  say(`device: ${device.info.name} (${device.info.reason})`);
  const teacher = await lgd.loadTeacher(teacherFolder, { device });
  const data =
    options.prepared === undefined
      ? await openDrawn(lgd, device, { preset, folder: images, teacher: teacherFolder, signal, say })
      : await openPacked(lgd, device, { preset, file: options.prepared });
  try {
    say(
      `task: tell ${data.bank.size} emoji apart by name. ${data.train.length} unlabelled drawings to learn from; ${data.evaluation[heldOutVendor].length} by a vendor that neither model has seen to be judged on`,
    );
    return await distil(lgd, { device, teacher, data, preset, options, signal });
  } finally {
    data.dispose();
    await teacher.dispose();
    device.dispose();
  }
}

async function distil(lgd, { device, teacher, data, preset, options, signal }) {
  const output = join(resolve(options.output), options.name);
  const { folders } = data; // none for a packed file
  const config = lgd.parseConfig({
    ...preset.config,
    train: { ...preset.config.train, precision: options.precision },
    seed: options.seed,
    output,
    overwrite: true,
    teacher: teacherFolder, // the folders are for who looks at the run later: lgdistill report, evaluate
    ...(folders !== undefined && {
      data: { train: resolve(folders.train) },
      evaluate: { ...preset.config.evaluate, data: resolve(folders.evaluate) },
    }),
  });
  const { name, widthMultiplier } = config.student;
  const student = lgd.createStudent(name, {
    device,
    embeddingSize: teacher.embeddingSize,
    widthMultiplier,
    resolution,
    seed: options.seed,
  });
  const judge = (vendor) =>
    new lgd.ZeroShotEvaluation({
      device,
      images: data.evaluation[vendor],
      bank: data.bank,
      mean: teacher.mean,
      std: teacher.std,
    });
  const distiller = new lgd.Distiller({ device, teacher, student, tsb: data.bank, config });
  const { precision } = distiller.encoder;
  let training;
  try {
    training = await train(
      distiller.run(data.train, { signal, evaluation: judge(heldOutVendor), resume: await resumable(output, config) }),
    );
  } finally {
    distiller.dispose();
  }
  if (training === undefined) return 130;
  const scores = {};
  for (const vendor of Object.keys(data.evaluation))
    scores[vendor] = await score(judge(vendor), { teacher, student, precision, signal });
  const speed = await measure(lgd, { teacher, student, precision, signal });
  const summary = {
    preset: options.name,
    precision,
    ...summarise({
      scores,
      training,
      seconds: performance.now() / 1000,
      classes: data.bank.size,
      images: data.train.length,
    }),
  };
  for (const file of [join(options.output, 'summary.json'), join(output, 'summary.json')])
    await writeFile(file, `${JSON.stringify(summary, null, 2)}\n`);
  say('');
  printTable(say, { scores, speed, student });
  const kept = Math.round((100 * summary.studentTop1) / summary.teacherTop1);
  say(
    `\n${summary.seconds.toFixed(0)} s in all; the student keeps ${kept} % of the teacher's top-1. Summary: ${relative(process.cwd(), join(options.output, 'summary.json'))}`,
  );
  if (folders !== undefined)
    say(`Curves, maps and pictures of it: npx lgdistill report ${relative(process.cwd(), output)}`);
  return 0;
}

/** 'last' when the run folder holds an unfinished run of the same configuration. */
async function resumable(output, config) {
  const read = async (name) => JSON.parse(await readFile(join(output, name), 'utf8').catch(() => 'null'));
  if ((await read('summary.json')) !== null || JSON.stringify(await read('config.json')) !== JSON.stringify(config))
    return undefined;
  say(`continuing the interrupted run in ${relative(process.cwd(), output)} (--fresh starts anew)`);
  return 'last';
}

/** Follows the run; undefined where it was interrupted. */
async function train(events) {
  const rates = [];
  let printed = performance.now();
  let lastStep = 0;
  for await (const event of events) {
    if (event.type === 'start') {
      lastStep = event.lastStep;
      say(`training: steps ${event.step + 1} to ${event.lastStep}, ${event.effectiveBatch} images each`);
    } else if (event.type === 'step') {
      if (event.logged) rates.push(event.imagesPerSecond);
      if (performance.now() - printed < 5000 && event.step !== lastStep) continue;
      printed = performance.now();
      say(
        `  step ${event.step}/${lastStep}  loss ${event.loss.toFixed(3)}  ${event.imagesPerSecond.toFixed(0)} images/s`,
      );
    } else if (event.type === 'evaluation') {
      say(
        `  epoch ${Math.round(event.epoch)}: student top-1 ${(100 * event.student.top1).toFixed(1)} %, teacher ${(100 * event.teacher.top1).toFixed(1)} %`,
      );
    } else if (event.type === 'interrupted') {
      say(`stopped after step ${event.step}; the same command continues from there`);
      return undefined;
    }
  }
  return { imagesPerSecond: rates.sort((a, b) => a - b)[Math.floor(rates.length / 2)] ?? 0 };
}

const options = readOptions();
if (options.help) {
  say(usage);
} else {
  const signal = stopOnSignal();
  try {
    await mkdir(options.output, { recursive: true });
    if (options.fresh) await rm(join(options.output, options.name), { recursive: true, force: true });
    process.exitCode = await main(options, signal);
  } catch (error) {
    if (signal.aborted) process.exitCode = 130;
    else {
      console.error(
        !['', '0'].includes(process.env.LGDISTILL_DEBUG ?? '')
          ? error
          : `error ${error.code ?? ''}\n  ${error.message}`,
      );
      process.exitCode = 1;
    }
  }
}
