// Measures bankLoss, bankUpdate and encoder training on everything that implementations/index.mjs lists, checks that
// results agree, and writes rows.
//   npm run bench -- [--only js,native] [--ops bankLoss,bankUpdate,encoder] [--sizes 256x1024x1000] [--seconds 3]
//     [--cap 20] [--out rows.jsonl]
//   npm run bench -- --render      makes docs/benchmarks.md and its chart from the rows in bench/results/peers
// A whole run writes bench/results/peers/<machine>.jsonl; a run of a part writes only where --out says.
import { fork, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { implementations } from './implementations/index.mjs';
import { describeMachine, machineName } from './machine.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const everyOp = ['bankLoss', 'bankUpdate', 'encoder'];
const everySize = ['256x512x100', '256x1024x1000', '2048x1024x1000', '256x512x21841'];

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    ops: { type: 'string' },
    sizes: { type: 'string' },
    seconds: { type: 'string', default: '3' },
    cap: { type: 'string', default: '20' },
    out: { type: 'string' },
    render: { type: 'boolean', default: false },
  },
});

function usage(message) {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(2);
}

function chosen(option, all) {
  if (options[option] === undefined) return all;
  const names = options[option].split(',');
  const unknown = names.find((name) => !all.includes(name));
  if (unknown !== undefined) usage(`--${option}: there is no ${unknown}; choose from ${all.join(', ')}`);
  return all.filter((name) => names.includes(name));
}

function positive(option) {
  const value = Number(options[option]);
  if (!(value > 0)) usage(`--${option}: ${options[option]} is not a number above 0`);
  return value;
}

function parseSize(text) {
  const [, B, D, K] =
    /^(\d+)x(\d+)x(\d+)$/.exec(text)?.map(Number) ??
    usage(`--sizes: ${text} is not a size such as ${everySize[0]} (images x embedding x categories)`);
  return { B, D, K };
}

/** Installs bench/package.json's packages, once and only where an implementation needs them. */
function installPackages() {
  if (existsSync(join(here, 'node_modules'))) return;
  process.stdout.write(
    'bench: installing what it compares with into bench/node_modules (npm ci --prefix bench; about 500 MB, once)\n',
  );
  const { status } = spawnSync('npm', ['ci', '--prefix', here, '--ignore-scripts', '--no-audit', '--no-fund'], {
    stdio: 'inherit',
  });
  if (status !== 0) usage('npm ci --prefix bench failed; --only js,native,sgemm needs no packages');
}

/** Runs one implementation in a process of its own; `take` gets each row. */
async function runWorker(order, take) {
  const child = fork(join(here, 'worker.mjs'), { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  let said = '';
  child.stderr.on('data', (text) => (said += text));
  let finished = false;
  child.on('message', (message) => {
    if (message.failed) said += message.failed;
    else if (message.done) finished = true;
    else take(message);
    if (message.notRun && message.op === undefined) finished = true;
  });
  child.send(order);
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (finished) return;
  process.stderr.write(`bench: ${order.name} stopped (exit ${code}):\n${said}\n`);
  process.exitCode = 1;
}

function print(row) {
  const what = row.op === 'encoder' ? 'encoder' : row.op && `${row.op} ${row.B}x${row.D}x${row.K}`;
  const name = [row.implementation, row.detail].filter(Boolean).join(' | ');
  if (row.notRun) return process.stdout.write(`${name} | ${what ?? 'all'} | not run: ${row.notRun}\n`);
  const checked = row.checked
    ? `error ${row.checked.error} ${row.checked.ok ? '<=' : 'ABOVE'} ${row.checked.bound}`
    : row.kind === 'native'
      ? 'products alone'
      : 'reference';
  process.stdout.write(
    `${name} | ${what} | p20 ${row.p20} p50 ${row.p50} p80 ${row.p80} ms, ${row.runs} runs, processor ${row.cpuMs} ms | ${checked}\n`,
  );
}

async function main() {
  if (options.render) return (await import('./render.mjs')).writePage();
  const names = chosen(
    'only',
    implementations.map(({ name }) => name),
  );
  const order = {
    ops: chosen('ops', everyOp),
    sizes: (options.sizes?.split(',') ?? everySize).map(parseSize),
    seconds: positive('seconds'),
    cap: positive('cap'),
  };
  // js and native compute what the others are checked against.
  const selected = implementations.filter(
    ({ name }) => names.includes(name) || name === 'js' || (name === 'native' && order.ops.includes('encoder')),
  );
  if (selected.some(({ own }) => own)) installPackages();
  const whole = options.only === undefined && options.ops === undefined && options.sizes === undefined;
  const machine = describeMachine();
  const out = options.out ?? (whole ? join(here, 'results', 'peers', `${machineName(machine)}.jsonl`) : undefined);
  const folder = mkdtempSync(join(tmpdir(), 'lgdistill-bench-'));
  const rows = [];
  try {
    for (const { name } of selected) {
      await runWorker({ name, folder, ...order }, (row) => {
        print(row);
        if (names.includes(name)) rows.push({ ...row, ...machine });
      });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  if (out === undefined)
    return process.stdout.write('bench: a part of the rows; written nowhere (--out FILE keeps them)\n');
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  process.stdout.write(`bench: ${rows.length} rows in ${out}\n`);
  if (rows.some((row) => row.checked?.ok === false)) process.exitCode = 1;
}

await main();
