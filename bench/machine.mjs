// What a row was measured on.
import { spawnSync } from 'node:child_process';
import { availableParallelism, cpus, loadavg, release } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function output(command, args) {
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : '';
}

/** `commit` ends in + where files differ from it; `load` is what else the machine was doing when the run began. */
export function describeMachine() {
  const changed =
    output('git', [
      'status',
      '--porcelain',
      '--untracked-files=no',
      '--',
      'lib',
      'native',
      'bench',
      ':!bench/results',
    ]) !== '';
  const gpu = output('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader']).split('\n')[0];
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    ...(gpu ? { gpu } : {}),
    os: `Linux ${release()}`,
    node: process.version,
    date: new Date().toISOString().slice(0, 10),
    commit: `${output('git', ['rev-parse', '--short', 'HEAD']) || 'unknown'}${changed ? '+' : ''}`,
    load: Number(loadavg()[0].toFixed(2)),
  };
}

/** A file name for the machine: processor, cores, GPU. */
export function machineName({ cpu, cores, gpu }) {
  return [cpu, `${cores}-cores`, gpu]
    .filter(Boolean)
    .join('-')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
}
