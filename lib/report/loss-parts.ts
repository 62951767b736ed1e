/** What the losses of runs compare student and teacher over, in words: their methods decide. */
import { parseConfig } from '../config/config.js';
import { anchorsOf, isMethod } from '../train/method.js';

type Count = 'all' | 'some' | 'none';

/** Of all runs of a report together. */
export interface LossParts {
  /** What visual parts are over; undefined where no run has one. */
  visual: 'visual bank' | 'queue' | 'visual bank and queue' | 'visual part' | undefined;
  /** Whether any run has a textual part. */
  textual: boolean;
  /** Whether the loss of any run is the sum of both. */
  both: boolean;
  /** How many have a queue, which is empty at first. */
  queue: Count;
  /** How many regress the teacher's embedding instead. */
  feature: Count;
}

interface Part {
  visual: LossParts['visual'];
  textual: boolean;
  queue: boolean;
  feature: boolean;
}

const unknown: Part = { visual: 'visual part', textual: true, queue: true, feature: false };

/** @param methods as the runs tell; `auto` and those of other versions may have any part */
export function lossParts(methods: readonly string[]): LossParts {
  const parts = methods.map((method) => partOf(method) ?? unknown);
  const visual = new Set(parts.flatMap((part) => part.visual ?? []));
  return {
    visual: visual.size > 1 ? 'visual part' : [...visual][0],
    textual: parts.some(({ textual }) => textual),
    both: parts.some((part) => part.textual && part.visual !== undefined),
    queue: countOf(parts.map(({ queue }) => queue)),
    feature: countOf(parts.map(({ feature }) => feature)),
  };
}

function countOf(flags: readonly boolean[]): Count {
  return !flags.includes(true) ? 'none' : flags.includes(false) ? 'some' : 'all';
}

/** A sentence on banks that a run keeps and does not compare over; none where both take part. */
export function idleBanks(method: string): string | undefined {
  const anchors = anchorsIn(method);
  if (anchors === undefined) return undefined;
  const { useTextual, useVisual } = anchors;
  if (!useTextual && !useVisual) return `Neither bank takes part in the loss of method ${method}.`;
  if (!useVisual) return `The visual bank takes no part in the loss of method ${method}.`;
  return useTextual
    ? undefined
    : `The textual bank takes no part in the loss of method ${method}: it assigns images to names.`;
}

function partOf(method: string): Part | undefined {
  const anchors = anchorsIn(method);
  if (anchors === undefined) return undefined;
  const { useTextual = false, useVisual = false, feature = false, queueSize } = anchors;
  const queue = queueSize > 0;
  return {
    visual: useVisual ? (queue ? 'visual bank and queue' : 'visual bank') : queue ? 'queue' : undefined,
    textual: useTextual,
    queue,
    feature,
  };
}

/** undefined of `auto`, and of other versions' methods. */
function anchorsIn(method: string): ReturnType<typeof anchorsOf> | undefined {
  return isMethod(method) ? anchorsOf(method, parseConfig({}).loss) : undefined;
}
