// Installs the tarballs of `npm run package` into an empty folder, without install scripts, and uses them as a user
// would.
//   node scripts/smoke-package.mjs [--packages dist-packages] [--folder empty-folder]    --folder is kept; without it a
//     temporary one is removed
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { compareVersions, floor } from './glibc.mjs';
import { strayFields, strayFiles } from './package/contents.mjs';
import { addonName } from './package/manifests.mjs';
import { drawImages, names, writeEmbeddings } from './package/smoke-data.mjs';
import { consumers, projects } from './package/smoke-types.mjs';
import { bin, root, run as runProgram } from './run.mjs';

const { values: options } = parseArgs({
  options: { packages: { type: 'string', default: 'dist-packages' }, folder: { type: 'string' } },
});
const packages = resolve(root, options.packages);
const app = options.folder === undefined ? mkdtempSync(join(tmpdir(), 'lgdistill-smoke-')) : resolve(options.folder);
const tinyClip = join(root, 'test', 'models', 'tiny-clip');
const env = { ...process.env, NO_COLOR: '1', NODE_PATH: '', XDG_CACHE_HOME: join(app, 'cache') };
delete env.LGDISTILL_ADDON;

/** Runs a program in the app's folder. */
const run = (command, args) => runProgram(command, args, { cwd: app, env });
const lgdistill = (...args) => run(join(app, 'node_modules', '.bin', 'lgdistill'), args);
const json = (...args) =>
  lgdistill(...args, '--json')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

function expect(what, condition) {
  if (!condition) throw new Error(`expected: ${what}`);
}

function step(title, action) {
  const start = performance.now();
  const note = action();
  console.log(`ok  ${title}${note ? `: ${note}` : ''} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
}

const tarballs = readdirSync(packages)
  .filter((name) => name.endsWith('.tgz'))
  .map((name) => join(packages, name));
const [addonTarball, mainTarball] = [
  tarballs.find((name) => name.includes('linux-x64')),
  tarballs.find((name) => !name.includes('linux-x64')),
];

function checkContents() {
  const counts = tarballs.map((tarball) => {
    const names = run('tar', ['tzf', tarball])
      .trim()
      .split('\n')
      .map((path) => path.replace(/^package\//u, ''));
    const manifest = JSON.parse(run('tar', ['xzOf', tarball, 'package/package.json']));
    const stray = [...strayFiles(manifest.name, names), ...strayFields(manifest)];
    expect(`nothing in ${manifest.name} that does not belong there, found ${stray}`, stray.length === 0);
    return `${manifest.name} ${names.length} files`;
  });
  return counts.join(', ');
}

function checkManifests() {
  for (const tarball of tarballs) run(bin('publint'), ['run', tarball, '--strict']);
  run(bin('attw'), [mainTarball]);
}

function install() {
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'smoke', private: true, type: 'module' }));
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  run('npm', [
    'install',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--prefer-offline',
    mainTarball,
    addonTarball,
    `@types/node@${devDependencies['@types/node']}`,
  ]);
}

function doctor() {
  const [report] = json('doctor');
  const wanted = join(app, 'node_modules', addonName, 'lgdistill.node');
  expect(`the addon of ${addonName}, found ${JSON.stringify(report.addon)}`, report.addon.path === wanted);
  const { glibc } = JSON.parse(readFileSync(join(app, 'node_modules', addonName, 'package.json'), 'utf8')).lgdistill;
  expect(`an addon for glibc ${floor}, found one for ${glibc}`, compareVersions(glibc, floor) <= 0);
  expect(
    `all dependencies, found ${JSON.stringify(report.dependencies)}`,
    Object.values(report.dependencies).every((state) => state.version !== undefined),
  );
  return `device auto takes ${report.device}, the addon loads from glibc ${glibc} on`;
}

/** The same bank from text and from its own rows, as a file of embeddings that has other lengths. */
function banks() {
  const [built] = json(
    'bank',
    'build',
    '--names',
    JSON.stringify(names),
    '--templates',
    'none',
    '--text-encoder',
    tinyClip,
    '--to',
    'text.safetensors',
  );
  writeEmbeddings(app, 'text.safetensors', 'rows.safetensors');
  const [converted] = json(
    'bank',
    'build',
    '--embeddings',
    'rows.safetensors',
    '--names',
    JSON.stringify(names),
    '--text-encoder',
    'tiny-clip',
    '--to',
    'bank.safetensors',
  );
  expect('rows of other lengths, brought to 1', converted.lengths.shortest > 1.5 && converted.size === built.size);
  return `${converted.size} names, ${converted.embeddingSize} dimensions`;
}

const training = [
  '--bank',
  'bank.safetensors',
  '--data',
  'images',
  '--device',
  'cpu',
  '--width-multiplier',
  '0.35',
  '--batch-size',
  '4',
  '--epochs',
  '2',
  '--warmup-epochs',
  '1',
  '--margin',
  '1',
];

function trainAndResume() {
  const started = json('distill', ...training, '--teacher', tinyClip, '--output', 'run', '--max-steps', '2');
  expect(
    `a run of 2 steps, found ${JSON.stringify(started.at(-1))}`,
    started.at(-1).type === 'done' && started.at(-1).step === 2,
  );
  const resumed = json('resume', 'run', '--max-steps', '4');
  expect(
    `steps 3 and 4, found ${JSON.stringify(resumed.at(-1))}`,
    resumed.at(-1).type === 'done' && resumed.at(-1).step === 4,
  );
}

function trainFromEmbeddings() {
  const events = json(
    'distill',
    ...training,
    '--teacher',
    'teacher.safetensors',
    '--resolution',
    '64',
    '--output',
    'embedded',
    '--max-steps',
    '1',
  );
  expect('one step', events.at(-1).step === 1);
}

function evaluateAndExport() {
  lgdistill('export', 'run', '--to', 'student.safetensors', '--bank', 'classifier.safetensors');
  const [{ student }] = json(
    'evaluate',
    '--student',
    'student.safetensors',
    '--bank',
    'classifier.safetensors',
    '--data',
    'images',
    '--device',
    'cpu',
  );
  expect('an accuracy', student.top1 >= 0 && student.top1 <= 1);
  return `top-1 ${(100 * student.top1).toFixed(0)} % after 4 steps`;
}

function modules() {
  const use =
    'const d = await m.openDevice("cpu"); if (d.kind !== "cpu" || m.version.length === 0) process.exit(1); d.dispose();';
  run(process.execPath, ['--input-type=module', '-e', `const m = await import('lgdistill'); ${use}`]);
  run(process.execPath, ['--input-type=commonjs', '-e', `(async (m) => { ${use} })(require('lgdistill'));`]);
  const other =
    'const error = await a.openDevice("none").catch((e) => e); if (a.LgdError === b.LgdError || !(error instanceof b.LgdError)) process.exit(1);';
  run(process.execPath, [
    '--input-type=commonjs',
    '-e',
    `(async (a) => { const b = await import('lgdistill'); ${other} })(require('lgdistill'));`,
  ]);
}

function types() {
  for (const [file, text] of Object.entries(consumers)) writeFileSync(join(app, file), text);
  for (const [file, project] of Object.entries(projects)) {
    writeFileSync(join(app, file), JSON.stringify(project));
    run(bin('tsc'), ['-p', file]);
  }
}

mkdirSync(app, { recursive: true });
try {
  step('contents of the tarballs', checkContents);
  step('publint and arethetypeswrong', checkManifests);
  step('npm install --ignore-scripts', install);
  step('doctor', doctor);
  drawImages(join(app, 'images'));
  step('names', () => void lgdistill('names', 'coco'));
  step('bank from text, and from embeddings', banks);
  step('distill and resume', trainAndResume);
  step("distill from a teacher's embeddings", trainFromEmbeddings);
  step('evaluate and export', evaluateAndExport);
  step('import and require', modules);
  step('types, strict, in node16 and bundler resolution', types);
} catch (error) {
  process.stderr.write(`smoke-package: ${error.message}\n`);
  process.exitCode = 1;
} finally {
  if (options.folder === undefined) rmSync(app, { recursive: true, force: true });
}
