/**
 * How much memory a run needs at another batch size: the plans of its encoders are made for a small batch too, and grow
 * in a straight line between the two.
 */
import { CompiledEncoder } from '../models/compiled.js';
import { mostImages } from '../number-limits.js';
import type { Distiller } from './distiller.js';
import { anchorsOf } from './method.js';

/** A batch size, and the bytes of device memory foreseen for it. */
export interface BatchMemory {
  batchSize: number;
  bytes: number;
  /** What keeps it from being larger. */
  limit: 'memory' | 'images';
}

const smallBatch = 2;
/**
 * Share of the memory that is counted on; the rest is left to the system, to fragments, and to what is not foreseen.
 */
const usableShare = 0.9;

/**
 * The largest batch that fits into so many bytes. What is held besides the plans (views, scores, scratch) is taken to
 * grow with the batch, parameters and banks not.
 * @param used bytes held after a step
 * @param available bytes there are in all
 * @param most images there are
 */
export function largestBatch(
  distiller: Distiller,
  { used, available, most }: { used: number; available: number; most: number },
): BatchMemory {
  const { batchSize } = distiller.config.train;
  const line = memoryLine(distiller, used);
  const fitting = Math.floor((usableShare * available - line.fixed) / line.perImage);
  const size = Math.max(1, Math.min(fitting, most, mostImages));
  return {
    batchSize: size,
    limit: size < fitting ? 'images' : 'memory',
    bytes: size === batchSize ? used : Math.round(line.fixed + line.perImage * size),
  };
}

/** Bytes that every batch needs, and bytes for each image of it. */
function memoryLine(distiller: Distiller, used: number): { fixed: number; perImage: number } {
  const { plans, config } = distiller;
  const { batchSize } = config.train;
  let [fixed, perImage, held] = [0, 0, 0];
  for (const encoder of plans) {
    const { parameterBytes, arenaBytes } = encoder.info;
    const slope =
      batchSize > smallBatch ? (arenaBytes - smallArena(encoder)) / (batchSize - smallBatch) : arenaBytes / batchSize;
    fixed += parameterBytes + arenaBytes - slope * batchSize;
    perImage += slope;
    held += parameterBytes + arenaBytes;
  }
  fixed += lastingBytes(distiller);
  return { fixed, perImage: perImage + Math.max(0, used - held - lastingBytes(distiller)) / batchSize };
}

/** Banks and queue of each student. */
function lastingBytes({ plans, tsb, teacher, method, config: { loss } }: Distiller): number {
  const rows = 2 * (tsb?.size ?? 0) + anchorsOf(method, loss).queueSize;
  return plans.reduce((sum, { training }) => sum + (training ? 4 * rows * teacher.embeddingSize : 0), 0);
}

function smallArena({ device, graph, resolution, width, precision, training }: CompiledEncoder): number {
  using small = new CompiledEncoder(device, graph, { batch: smallBatch, resolution, width, precision, training });
  return small.info.arenaBytes;
}
