import { Command } from 'commander';
import type { ProbeTrial, TimedTrial } from '../addon/cuda-probe-child.js';
import type { ProbeResult } from '../addon/cuda-probe.js';
import { counted } from '../counted.js';
import { inspectSystem, type DependencyState, type SystemReport } from '../machine/system.js';
import type { Bind } from './command.js';
import { exitCodes } from './failure.js';
import { formatBytes, formatFacts } from './table.js';

export function doctorCommand(bind: Bind): Command {
  return new Command('doctor')
    .description(
      'say what this machine has, which device would be used, what is missing, and what would make it faster',
    )
    .action(
      bind(async ({ terminal }) => {
        const report = await inspectSystem();
        terminal.emit(report);
        terminal.say(formatFacts(facts(report)));
        for (const { what, mend } of report.problems) terminal.say(`\n${terminal.bold(what)}\n  -> ${mend}`);
        if (report.advice.length > 0) terminal.say(`\n${terminal.bold('what would make it faster')}`);
        for (const { what, mend } of report.advice) terminal.say(`  ${what}\n    -> ${mend}`);
        terminal.say(`\n${report.usable ? `usable; device auto takes ${report.device}` : terminal.red('not usable')}`);
        return report.usable ? exitCodes.done : exitCodes.failed;
      }),
    );
}

function facts(report: SystemReport): [string, string | undefined][] {
  const { version, node, platform, cpu, memory, disk, addon, cuda, probe, emulated, dependencies } = report;
  const state = (dependency: DependencyState) =>
    'error' in dependency ? `missing: ${dependency.error}` : dependency.version;
  const required = cuda.required > 0 ? `, ${release(cuda.required)} required` : '';
  return [
    ['lgdistill', version],
    ['node', `${node} (${platform})`],
    ['cpu', `${cpu.model}, ${counted(cpu.threads, 'thread')}`],
    ['memory', `${formatBytes(memory.free)} free of ${formatBytes(memory.total)}`],
    ['disk', disk && `${formatBytes(disk.free)} free in ${disk.path}`],
    ...addonFacts(addon),
    ['cuda driver', cuda.driver === 0 ? 'none' : `supports CUDA ${release(cuda.driver)}${required}`],
    ...cuda.devices.map(({ index, name, computeCapability, memoryBytes }): [string, string] => [
      `cuda:${index}`,
      `${name}, compute ${computeCapability}, ${formatBytes(memoryBytes)}`,
    ]),
    ['cuda trial', probe && describeTrial(probe)],
    ['cuda products', probe?.wgmma && describeProducts(probe.wgmma)],
    ['cuda launches', probe?.programmaticLaunches && describeLaunches(probe.programmaticLaunches)],
    ['cuda-emulated', emulated && `${emulated}: CUDA kernels on the CPU, for tests`],
    ['sharp', state(dependencies.sharp)],
    ['libjpeg-turbo', state(dependencies.jpegTurbo)],
    ['transformers', state(dependencies.transformers)],
    ['onnxruntime', state(dependencies.onnxruntime)],
  ];
}

function addonFacts(addon: SystemReport['addon']): [string, string][] {
  if ('error' in addon) return [['addon', `missing: ${addon.error}`]];
  const { path, version, buildId, isa, compiler, cuda, cudaRuntime, cudaArchitectures } = addon;
  return [
    ['addon', `${version}, build ${buildId}, ${isa}, ${compiler}`],
    ['addon file', path],
    ['cuda build', cuda ? `${release(cudaRuntime)}, for ${cudaArchitectures.join(', ')}` : 'no, CPU only'],
  ];
}

function describeTrial({ when, passed, reason }: ProbeResult): string {
  if (when === '') return 'off (LGDISTILL_PROBE)';
  return passed ? 'passed in a process of its own' : `failed: ${reason}`;
}

function describeProducts({ passed, reason }: ProbeTrial): string {
  return passed ? 'wgmma, which agrees with mma.sync' : `mma.sync; wgmma failed: ${reason}`;
}

function describeLaunches({ passed, reason, time }: TimedTrial): string {
  if (!passed) return `serialized; programmatic ones failed: ${reason}`;
  return `programmatic, which took ${Math.round(100 * time!)} % of the time of serialized ones`;
}

/** 13000 -> '13.0'. */
function release(code: number): string {
  return `${Math.floor(code / 1000)}.${Math.floor((code % 1000) / 10)}`;
}
