/**
 * Reads a run folder in a process of its own, whose memory is limited, and prints how many steps it has: node child.mjs
 * <run folder>.
 */
import { allRuns } from '../fixtures/runs.js';

const [run] = await allRuns([process.argv[2]!]);
process.stdout.write(
  JSON.stringify({ steps: run!.steps.step.length, last: run!.steps.step.at(-1), badLines: run!.badLines }),
);
