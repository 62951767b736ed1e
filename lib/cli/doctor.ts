import { Command } from 'commander';
import { counted } from '../counted.js';
import { inspectSystem, type DependencyState, type SystemReport } from '../system.js';
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

function facts({
  version,
  node,
  platform,
  cpu,
  memory,
  disk,
  addon,
  cuda,
  probe,
  emulated,
  dependencies,
}: SystemReport): [string, string][] {
  const state = (dependency: DependencyState) =>
    'error' in dependency ? `missing: ${dependency.error}` : dependency.version;
  return [
    ['lgdistill', version],
    ['node', `${node} (${platform})`],
    ['cpu', `${cpu.model}, ${counted(cpu.threads, 'thread')}`],
    ['memory', `${formatBytes(memory.free)} free of ${formatBytes(memory.total)}`],
    ...(disk === undefined ? [] : [['disk', `${formatBytes(disk.free)} free in ${disk.path}`] as [string, string]]),
    ...('error' in addon
      ? [['addon', `missing: ${addon.error}`] as [string, string]]
      : ([
          ['addon', `${addon.version}, build ${addon.buildId}, ${addon.isa}, ${addon.compiler}`],
          ['addon file', addon.path],
          [
            'cuda build',
            addon.cuda ? `${release(addon.cudaRuntime)}, for ${addon.cudaArchitectures.join(', ')}` : 'no, CPU only',
          ],
        ] as [string, string][])),
    [
      'cuda driver',
      cuda.driver === 0
        ? 'none'
        : `supports CUDA ${release(cuda.driver)}${cuda.required > 0 ? `, ${release(cuda.required)} required` : ''}`,
    ],
    ...cuda.devices.map(
      ({ index, name, computeCapability, memoryBytes }) =>
        [`cuda:${index}`, `${name}, compute ${computeCapability}, ${formatBytes(memoryBytes)}`] as [string, string],
    ),
    ...(probe === undefined
      ? []
      : [
          [
            'cuda trial',
            probe.when === ''
              ? 'off (LGDISTILL_PROBE)'
              : probe.passed
                ? 'passed in a process of its own'
                : `failed: ${probe.reason}`,
          ] as [string, string],
        ]),
    ...(probe?.wgmma === undefined
      ? []
      : [
          [
            'cuda products',
            probe.wgmma.passed ? 'wgmma, which agrees with mma.sync' : `mma.sync; wgmma failed: ${probe.wgmma.reason}`,
          ] as [string, string],
        ]),
    ...(probe?.programmaticLaunches === undefined
      ? []
      : [['cuda launches', describeLaunches(probe.programmaticLaunches)] as [string, string]]),
    ...(emulated === undefined
      ? []
      : [['cuda-emulated', `${emulated}: CUDA kernels on the CPU, for tests`] as [string, string]]),
    ['sharp', state(dependencies.sharp)],
    ['libjpeg-turbo', state(dependencies.jpegTurbo)],
    ['transformers', state(dependencies.transformers)],
    ['onnxruntime', state(dependencies.onnxruntime)],
  ];
}

type LaunchTrial = NonNullable<NonNullable<SystemReport['probe']>['programmaticLaunches']>;

function describeLaunches({ passed, reason, time }: LaunchTrial): string {
  if (!passed) return `serialized; programmatic ones failed: ${reason}`;
  return `programmatic, which took ${Math.round(100 * time!)} % of the time of serialized ones`;
}

/** 13000 -> '13.0'. */
function release(code: number): string {
  return `${Math.floor(code / 1000)}.${Math.floor((code % 1000) / 10)}`;
}
