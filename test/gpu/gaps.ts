/** Where a GPU idles inside training steps: what bench/trace/kernel_trace.cpp wrote down, read back. */

export interface Operation {
  /** Nanoseconds. */
  start: number;
  end: number;
  stream: number;
  /** Nodes of one graph launch share it. */
  launch: number;
  /** 0: not of a graph. */
  graph: number;
  name: string;
}

export function readTrace(text: string): Operation[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [start, end, stream, launch, graph, name] = line.split('\t');
      return {
        start: Number(start),
        end: Number(end),
        stream: Number(stream),
        launch: Number(launch),
        graph: Number(graph),
        name: name ?? '',
      };
    });
}

export interface Gap {
  microseconds: number;
  after: string;
  before: string;
}

export interface StepProfile {
  steps: number;
  /** Operations of a step, in the middle one. */
  operations: number;
  /** From the first start to the last end of a step, medians, in microseconds; busy: while anything ran. */
  length: number;
  busy: number;
  /** The longest time within any step in which nothing ran. */
  longest: Gap;
  /** Gaps longer than the limit, in all steps. */
  overLimit: number;
  /** Microseconds a step by kernel, the largest first: where the time goes. Kernels side by side count each. */
  kernels: { name: string; count: number; microseconds: number }[];
}

/**
 * Looks into the steps that ran as one graph; the longest kind of graph launch is a step.
 * @param limit microseconds
 * @throws Error where no launch of a graph was recorded
 */
export function profileSteps(operations: readonly Operation[], limit: number): StepProfile {
  const launches = new Map<number, Operation[]>();
  for (const operation of operations)
    if (operation.graph !== 0) launches.set(operation.launch, [...(launches.get(operation.launch) ?? []), operation]);
  const most = Math.max(0, ...[...launches.values()].map((nodes) => nodes.length));
  const steps = [...launches.values()].filter((nodes) => nodes.length === most);
  if (steps.length === 0) throw new Error('no launch of a graph was recorded');
  const lengths: number[] = [];
  const busy: number[] = [];
  let longest: Gap = { microseconds: 0, after: '', before: '' };
  let overLimit = 0;
  for (const nodes of steps) {
    nodes.sort((a, b) => a.start - b.start);
    let [last, work] = [nodes[0]!, 0];
    let from = last.start;
    for (const node of nodes.slice(1)) {
      const gap = (node.start - last.end) / 1000;
      if (gap > 0) {
        work += last.end - from;
        from = node.start;
        if (gap > limit) overLimit++;
        if (gap > longest.microseconds) longest = { microseconds: gap, after: last.name, before: node.name };
      }
      if (node.end > last.end) last = node;
    }
    busy.push((work + last.end - from) / 1000);
    lengths.push((last.end - nodes[0]!.start) / 1000);
  }
  return {
    steps: steps.length,
    operations: most,
    length: median(lengths),
    busy: median(busy),
    longest,
    overLimit,
    kernels: byKernel(steps),
  };
}

function byKernel(steps: Operation[][]): StepProfile['kernels'] {
  const kernels = new Map<string, { count: number; microseconds: number }>();
  for (const { name, start, end } of steps.flat()) {
    const sum = kernels.get(name) ?? { count: 0, microseconds: 0 };
    kernels.set(name, {
      count: sum.count + 1 / steps.length,
      microseconds: sum.microseconds + (end - start) / 1000 / steps.length,
    });
  }
  return [...kernels].map(([name, sums]) => ({ name, ...sums })).sort((a, b) => b.microseconds - a.microseconds);
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

/** What the check of a profile says, and whether it passes: no gap may be longer than the limit. */
export function describeGaps(
  { steps, operations, length, busy, longest, overLimit }: StepProfile,
  limit: number,
): { text: string; passed: boolean } {
  const worst = `${longest.microseconds.toFixed(1)} us (${shorten(longest.after)} -> ${shorten(longest.before)})`;
  return {
    text: `${overLimit} over ${limit} us in ${steps} steps of ${operations} operations, the longest ${worst}; busy ${((100 * busy) / length).toFixed(1)} % of ${length.toFixed(0)} us`,
    passed: overLimit === 0,
  };
}

/** A kernel's name with its template arguments is longer than a line. */
export function shorten(name: string): string {
  return name.length > 70 ? `${name.slice(0, 67)}...` : name;
}
