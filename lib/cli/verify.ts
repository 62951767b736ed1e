import { Command } from 'commander';
import type { Config } from '../config/config.js';
import { openDevice, type DeviceName } from '../device.js';
import { nameWithWidth } from '../models/students/definition.js';
import { verifyDevice, type Verification } from '../train/verify/verify.js';
import { addStepOptions, readStepConfig } from './bench.js';
import type { Bind, Context } from './command.js';
import { exitCodes } from './failure.js';
import { needlessInLoss, refuseNeedless, type Needless } from './needless.js';
import { withProgress } from './progress.js';
import { formatTable } from './table.js';
import { parseCount } from './values.js';

/** In smaller batches of 32 px, float32 was seen to fail by rounding. */
const enoughImages = 16;

const needless: readonly Needless<Config>[] = [
  ...needlessInLoss,
  {
    options: ['loss.studentTemperature'],
    when: ({ method }) => method === 'feature',
    where: 'the method is feature, which has no softmax',
  },
];

interface VerifyFlags {
  steps: number;
  categories: number;
  dimension: number;
}

export function verifyCommand(bind: Bind): Command {
  const command = new Command('verify')
    .description(
      'check that a GPU computes what the CPU does: training steps on made-up images on both, and again on the GPU',
    )
    .option('--steps <n>', 'training steps to compare', parseCount('steps'), 4);
  addStepOptions(
    command,
    ['method', 'loss.*'],
    'Images a batch; auto: 32. That of your run checks the very shapes it has, and takes as much longer',
  );
  return command.action(bind((context) => verify(command, context)));
}

async function verify(command: Command, { terminal, signal }: Context): Promise<number> {
  const { steps, categories, dimension } = command.opts<VerifyFlags>();
  const config = await readStepConfig(command);
  refuseNeedless(command, config, needless);
  using device = await openDevice(config.device as DeviceName, { threads: config.threads });
  const rows: Verification[] = [];
  await withProgress(terminal, 'verify', async (progress) => {
    const onProgress = ({ done, total }: { done: number; total: number }) => progress.update(done, total);
    const options = { device, steps, categories, dimension, signal, onProgress };
    for await (const row of verifyDevice(config, options)) rows.push(row);
  });
  const failed = rows.filter(({ passed }) => !passed);
  terminal.emit({
    passed: failed.length === 0,
    device: device.info,
    build: device.addon.buildInfo(),
    student: config.student.name,
    rows,
  });
  terminal.say(
    `${device.info.name} (${device.kind}) held against the CPU; ${nameWithWidth(config.student.name, config.student.widthMultiplier)}`,
  );
  terminal.say(
    formatTable(
      ['', 'precision', 'off by', 'allowed', ''],
      rows.map((row) => [
        row.part,
        row.precision,
        ...[row.error, row.limit].map((value) => (value === 0 ? '0' : value.toExponential(1))),
        verdict(row),
      ]),
    ),
  );
  if (config.teacher !== undefined && rows.every(({ part }) => part !== 'teacher'))
    terminal.say('the teacher computes on the host, or not at all: it was not compared');
  if (failed.length === 0) {
    terminal.say(`\n${device.kind} computes what the CPU does`);
    return exitCodes.done;
  }
  const { batchSize } = config.train;
  const isSmall = batchSize !== 'auto' && batchSize < enoughImages;
  const meaning = isSmall
    ? `which rounding alone may do in batches of ${batchSize}, over which norms amplify it`
    : 'do not train on this device';
  terminal.say(terminal.red(`\n${failed.length} of ${rows.length} comparisons failed: ${meaning}`));
  if (isSmall) terminal.say(`  -> Run it again with --batch-size ${enoughImages} or more. If that fails, too:`);
  terminal.say(
    '  -> Run it again with LGDISTILL_WGMMA=0, LGDISTILL_PDL=0, LGDISTILL_GRAPHS=0 and LGDISTILL_FUSION=nodes in turn: the one that makes it pass names the part at fault. Then report it, with what `lgdistill doctor` prints',
  );
  return exitCodes.failed;
}

/** Where rounding alone makes as large a difference as a wrong sign would, there is nothing to tell. */
function verdict({ passed, limit }: Verification): string {
  if (!passed) return 'FAILED';
  return limit < 1 ? 'ok' : 'too rough to tell';
}
