/** The classification protocols, and what they find. */
import type { StudentInfo } from '../models/student-info.js';
import type { Answers, ClassScore } from './accuracy.js';
import type { SweepPoint } from './probe.js';
import type { ZeroShotScore } from './score.js';

/**
 * zeroshot: the text bank's nearest name; knn: weighted nearest neighbours among labelled features; linear: linear
 * probes on frozen features; semi: fine-tuning with a share of the labels; finetune: with all of them.
 */
export const protocols = ['zeroshot', 'knn', 'linear', 'semi', 'finetune'] as const;
export type Protocol = (typeof protocols)[number];

/** One result of a protocol: several settings give several. */
export interface ProtocolResult {
  /** What distinguishes it, in words: `k 200, T 0.1`. */
  setting: string;
  score: ZeroShotScore;
  /** In the order of `names`. */
  classes: ClassScore[];
  /** The settings that were tried on held-out images, where any were. */
  sweep?: SweepPoint[];
  /** Labelled images learnt from. */
  learntFrom: number;
  /**
   * What each image was taken for, and how many classes come before the right one: not in the JSON file, but in a table
   * beside it.
   */
  answers: Answers;
}

/** What {@link evaluateProtocol} found. */
export interface ProtocolEvaluation {
  protocol: Protocol;
  /** The student's file. */
  file: string;
  info: StudentInfo;
  /** Of zeroshot: the text bank's hash; scores over the same bank can be compared. */
  bankHash?: string;
  /** What indices of classes mean. */
  names: readonly string[];
  /** Ids of the images judged, in the answers' order: those that can be decoded. */
  images: readonly string[];
  results: ProtocolResult[];
  /** What was left out on opening the images and why, a line each. */
  remarks: readonly string[];
  seconds: number;
  /** Files written: results, predictions, lists. */
  files: string[];
}

/** Ids of images by the name of a list. */
export type ImageLists = ReadonlyMap<string, readonly string[]>;
