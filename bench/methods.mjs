// Compares methods and their settings where there are few names and where there are many.
//   node bench/methods.mjs [--tasks cifar10,emoji] [--variants lgd,seed,...] [--seeds 1,2,3] [--rows FILE] [--student
//     mobilenet_v3_small] [--width 1] [--resolution 64] [--images N] [--views N] [--kept N] [--batch 64] [--optimizer sgd]
//     [--rate 0.12] [--threads N]
//   node bench/methods.mjs --table FILE
// cifar10: 10 names, photos from $LGDISTILL_CIFAR10 (train/ and test/ with class folders); emoji: all names of the
// demo, judged on the vendor that neither teacher nor student has seen; emoji:food-drink+objects: those of some of
// emojibase's groups. Every variant of a seed sees the same views, start values and order; the teacher's embeddings of
// the views are computed once for all of them. --views is the number that a run sees, --kept how many of each image are
// different ones that come back (default: all).
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openDrawn } from '../scripts/demo/data.mjs';
import { presets } from '../scripts/demo/presets.mjs';
import { heldOutVendor } from '../scripts/demo/vendors.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const teacherFolder = join(root, 'test', 'models', 'tiny-clip');
const photoTemplates = [
  'a photo of a {}',
  'a {}',
  'a blurry photo of a {}',
  'a small photo of the {}',
  'a picture of a {}',
  'a low resolution photo of a {}',
  'a cropped photo of a {}',
  '{}',
];

/**
 * Settings that are tried, by name: parts of a configuration; `rate` is a factor of --rate, `moreNames` adds
 * CIFAR-100's and ImageNet's to those that are trained on, not to those judged.
 */
const variants = {
  lgd: { method: 'lgd' },
  seed: { method: 'seed' },
  text: { method: 'text' },
  visual: { method: 'visual' },
  hybrid: { method: 'hybrid' },
  feature: { method: 'feature' },
  combined: { method: 'combined' },
  'combined alpha 0.75': { method: 'combined', loss: { alpha: 0.75 } },
  'combined alpha 0.75 rate x 4/3': { method: 'combined', loss: { alpha: 0.75 }, rate: 4 / 3 },
  'lgd more names': { method: 'lgd', moreNames: true },
  'combined alpha 0.9': { method: 'combined', loss: { alpha: 0.9 } },
  'combined tT 0.03': { method: 'combined', loss: { teacherTemperature: 0.03 } },
  'combined tT 0.05': { method: 'combined', loss: { teacherTemperature: 0.05 } },
  'lgd tT 0.03': { method: 'lgd', loss: { teacherTemperature: 0.03 } },
  'seed tT 0.03': { method: 'seed', loss: { teacherTemperature: 0.03 } },
  'lgd alpha 0.9': { method: 'lgd', loss: { alpha: 0.9 } },
};

const { values: options } = parseArgs({
  options: {
    tasks: { type: 'string', default: 'cifar10,emoji' },
    variants: { type: 'string', default: Object.keys(variants).join(',') },
    seeds: { type: 'string', default: '1,2,3' },
    rows: { type: 'string' },
    student: { type: 'string', default: 'mobilenet_v3_small' },
    width: { type: 'string', default: '1' },
    resolution: { type: 'string', default: '64' },
    images: { type: 'string' },
    views: { type: 'string', default: '150000' },
    kept: { type: 'string' },
    batch: { type: 'string', default: '64' },
    optimizer: { type: 'string', default: 'sgd' },
    rate: { type: 'string', default: '0.12' },
    threads: { type: 'string' },
    table: { type: 'string' },
  },
});
const numbers = Object.fromEntries(
  ['width', 'resolution', 'images', 'views', 'kept', 'batch', 'rate', 'threads'].map((name) => [
    name,
    options[name] === undefined ? undefined : Number(options[name]),
  ]),
);
const list = (text) => text.split(',').filter((part) => part !== '');

async function openCifar(lgd, device) {
  const folder = process.env.LGDISTILL_CIFAR10;
  if (folder === undefined || !existsSync(folder)) return undefined;
  const caches = [];
  const open = async (name) => {
    let source = await lgd.openImageFolder(join(folder, name), { labels: 'folders' });
    if (numbers.images !== undefined && name === 'train')
      source = everyNth(source, Math.max(1, Math.round(source.ids.length / numbers.images)));
    const cache = await lgd.ImageCache.build(source, {
      device,
      resolution: 64,
      margin: 1,
      memoryLimitBytes: 2 ** 31,
      spillFolder: tmpdir(),
      maxBrokenShare: 0,
    });
    caches.push(cache);
    return cache;
  };
  const [train, test] = [await open('train'), await open('test')];
  const bank = await buildBank(lgd, train.classNames, photoTemplates);
  return {
    bank,
    longBank: await buildLongBank(lgd, bank),
    train,
    test,
    dispose: () => caches.forEach((cache) => cache.dispose()),
  };
}

async function buildBank(lgd, names, templates) {
  const encoder = await lgd.ClipTextEncoder.load(teacherFolder, { localFilesOnly: true });
  return lgd.TextualSemanticsBank.build(names, { encoder, templates }).finally(() => encoder.dispose());
}

async function buildLongBank(lgd, { names, templates }) {
  const others = await Promise.all(['cifar100', 'imagenet-1k'].map((id) => lgd.CategoryList.builtin(id)));
  return buildBank(lgd, [...new Set([...names, ...others.flatMap((list) => list.names)])], templates);
}

function everyNth(source, n) {
  const places = source.ids.map((_, i) => i).filter((i) => i % n === 0);
  return {
    ...source,
    ids: places.map((i) => source.ids[i]),
    labels: places.map((i) => source.labels[i]),
    read: (i) => source.read(places[i]),
  };
}

async function openEmoji(lgd, device, groups) {
  const folder = join(root, 'runs', 'demo', 'images', `${groups?.join('+') ?? 'all'}-64`);
  const { bank, train, evaluation, dispose } = await openDrawn(lgd, device, {
    preset: { ...presets.full, groups },
    folder,
    teacher: teacherFolder,
    say: () => undefined,
  });
  return { bank, longBank: await buildLongBank(lgd, bank), train, test: evaluation[heldOutVendor], dispose };
}

async function measure(lgd, device, teacher, task, { train, test, bank, longBank }, variant, seed, viewsFile) {
  const from = performance.now();
  const { rate = 1, moreNames = false, ...settings } = variants[variant];
  const tsb = moreNames ? longBank : bank;
  const output = join(tmpdir(), `lgdistill-methods-${process.pid}`);
  const student = lgd.createStudent(options.student, {
    device,
    embeddingSize: teacher.embeddingSize,
    widthMultiplier: numbers.width,
    resolution: numbers.resolution,
    seed,
  });
  const epochs = Math.max(2, Math.round(numbers.views / train.length));
  const config = lgd.parseConfig({
    ...settings,
    output,
    overwrite: true,
    seed,
    data: { resolution: numbers.resolution },
    student: { name: options.student, widthMultiplier: numbers.width },
    augment: task.startsWith('emoji') ? { hue: 0, blurProbability: 0 } : {},
    train: {
      epochs,
      batchSize: numbers.batch,
      optimizer: options.optimizer,
      learningRate: numbers.rate * rate,
      warmupEpochs: epochs / 20,
      outlierFactor: 0,
    },
    teacherCache: { views: numbers.kept ?? epochs, file: viewsFile },
    evaluate: { everyEpochs: 0 },
    checkpoint: { everyEpochs: 0, everyMinutes: 0, keep: 1 },
  });
  const distiller = new lgd.Distiller({ device, teacher, student, tsb, config });
  const evaluation = new lgd.ZeroShotEvaluation({ device, images: test, bank, mean: teacher.mean, std: teacher.std });
  const row = {
    task,
    variant,
    seed,
    student: options.student,
    width: numbers.width,
    resolution: numbers.resolution,
    names: tsb.size,
    images: train.length,
    epochs,
    kept: numbers.kept ?? epochs,
    batch: numbers.batch,
    optimizer: options.optimizer,
    rate: numbers.rate * rate,
  };
  try {
    let last;
    for await (const event of distiller.run(train, { evaluation })) {
      if (event.type === 'step') last = event;
      if (event.type === 'evaluation')
        Object.assign(row, { zeroShot: event.student.top1, top5: event.student.top5, teacher: event.teacher?.top1 });
    }
    Object.assign(row, {
      ownMass: last.ownMass,
      entropyTextual: last.entropyTextual,
      klTextual: last.klTextual,
      klVisual: last.klVisual,
      agreement: last.agreement,
    });
  } finally {
    distiller.dispose();
    rmSync(output, { recursive: true, force: true });
  }
  if (lgd.probeStudent !== undefined) Object.assign(row, await lgd.probeStudent(student, { device, train, test }));
  return { ...row, seconds: (performance.now() - from) / 1000 };
}

function printTable(rows) {
  const settings = ({ task, student, width, resolution, images, epochs, batch, optimizer = 'sgd' }) =>
    JSON.stringify([task, student, width, resolution, images, epochs, batch, optimizer]);
  for (const key of new Set(rows.map(settings))) {
    const of = rows.filter((row) => settings(row) === key);
    console.log(
      `\n${of[0].task}: ${of[0].names} names, ${of[0].images} images, ${of[0].epochs} epochs of batch ${of[0].batch}, ${of[0].student} x ${of[0].width} at ${of[0].resolution} px; teacher ${(100 * of[0].teacher).toFixed(1)} %\n\n| variant | seeds | zero-shot top-1 | own mass | agreement |\n|---|---:|---:|---:|---:|`,
    );
    for (const variant of new Set(of.map((row) => row.variant))) {
      const one = of.filter((row) => row.variant === variant);
      const spread = (key) => {
        const values = one.map((row) => 100 * row[key]);
        const mean = values.reduce((a, b) => a + b, 0) / values.length;
        const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, values.length - 1));
        return `${mean.toFixed(1)}${values.length > 1 ? ` (${deviation.toFixed(1)})` : ''}`;
      };
      console.log(
        `| ${variant} | ${one.length} | ${spread('zeroShot')} | ${spread('ownMass')} | ${spread('agreement')} |`,
      );
    }
  }
}

const readRows = (file) =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

async function main() {
  const lgd = await import('../dist/index.js');
  const unknown = list(options.variants).filter((name) => variants[name] === undefined);
  if (unknown.length > 0)
    throw new Error(`no variant ${unknown.join(', ')}; there are ${Object.keys(variants).join(', ')}`);
  const device = await lgd.openDevice('cpu', { threads: numbers.threads });
  const teacher = await lgd.loadTeacher(teacherFolder, { device, batch: numbers.batch });
  const rows = [];
  for (const task of list(options.tasks)) {
    const data = await (task === 'cifar10'
      ? openCifar(lgd, device)
      : openEmoji(lgd, device, task.split(':')[1]?.split('+')));
    if (data === undefined) {
      console.log(`SKIPPED ${task}: LGDISTILL_CIFAR10 names no folder`);
      continue;
    }
    for (const seed of list(options.seeds).map(Number)) {
      const views = join(tmpdir(), `lgdistill-methods-${process.pid}-${task.replace(':', '-')}-${seed}.views`);
      for (const variant of list(options.variants)) {
        const row = await measure(lgd, device, teacher, task, data, variant, seed, views);
        rows.push(row);
        if (options.rows !== undefined) appendFileSync(options.rows, `${JSON.stringify(row)}\n`);
        console.log(
          `${task} seed ${seed} ${variant}: zero-shot ${(100 * row.zeroShot).toFixed(1)} % (teacher ${(100 * row.teacher).toFixed(1)}), own mass ${row.ownMass.toFixed(2)}, agreement ${row.agreement.toFixed(2)}, ${row.seconds.toFixed(0)} s`,
        );
      }
      rmSync(views, { force: true });
    }
    data.dispose();
  }
  printTable(rows);
  await teacher.dispose();
  device.dispose();
}

if (options.table === undefined) await main();
else printTable(readRows(options.table));
