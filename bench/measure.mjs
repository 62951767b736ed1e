// How a row is timed.

const mostSamples = 1000;

/**
 * Times `run` for about `seconds` after a warm-up, call by call. A call that alone takes longer is timed once: its
 * warm-up would count little.
 * @returns milliseconds a call at the 20th, 50th and 80th percentile, the number of calls, and the processor time of a
 *   call, which tells how many threads worked
 */
export async function measure(run, seconds) {
  const budget = seconds * 1000;
  const first = await timed(run);
  if (first.wall > budget) return summary([first]);
  for (const until = performance.now() + budget / 4; performance.now() < until;) await timed(run);
  const samples = [];
  for (
    const until = performance.now() + budget;
    samples.length < 3 || (performance.now() < until && samples.length < mostSamples);
  )
    samples.push(await timed(run));
  return summary(samples);
}

async function timed(run) {
  const [used, from] = [process.cpuUsage(), performance.now()];
  await run();
  const wall = performance.now() - from;
  const { user, system } = process.cpuUsage(used);
  return { wall, cpu: (user + system) / 1000 };
}

/** @param {{ wall: number, cpu: number }[]} samples milliseconds */
export function summary(samples) {
  const sorted = (key) => samples.map((sample) => sample[key]).sort((a, b) => a - b);
  const at = (values, share) => Number(values[Math.round(share * (values.length - 1))].toPrecision(5));
  const [wall, cpu] = [sorted('wall'), sorted('cpu')];
  return { p20: at(wall, 0.2), p50: at(wall, 0.5), p80: at(wall, 0.8), cpuMs: at(cpu, 0.5), runs: samples.length };
}
