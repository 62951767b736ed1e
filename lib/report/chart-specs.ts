/** Which curves a report has, and how they are to be read. */
import type { OtherProtocol } from '../evaluate/score.js';
import { lossParts, type LossParts } from './loss-parts.js';
import type { RunFacts, StepField } from './read-run.js';
import { methodOf } from './summary.js';

/** What evaluations tell. */
export type EvaluationField = 'studentTop1' | 'teacherTop1' | 'studentTop5' | 'teacherTop5' | OtherProtocol;

export interface ChartLine {
  key: StepField | EvaluationField;
  label: string;
}

export interface ChartSpec {
  id: string;
  title: string;
  /** One sentence on how to read it. */
  hint: string;
  /** How values are written: a number, a share as per cent, or a count. */
  unit: 'number' | 'share' | 'count';
  /** Which points: those of training steps, or of evaluations. */
  source: 'steps' | 'evaluations';
  /** Told apart by their dashes, where runs have the colours. */
  lines: readonly ChartLine[];
}

/** Every curve: of the loss those parts that the runs' methods have, of the nearest names as many as count. */
export function chartSpecs(runs: readonly RunFacts[]): ChartSpec[] {
  const parts = lossParts(runs.map(methodOf));
  const ranks = ranksOf(runs);
  const { both, queue } = parts;
  const banks = (visual: StepField, textual: StepField): ChartLine[] => [
    { key: visual, label: parts.visual ?? 'visual part' },
    { key: textual, label: 'textual bank' },
  ];
  return [
    {
      id: 'loss',
      title: 'Loss',
      unit: 'number',
      source: 'steps',
      hint: lossHint(parts),
      lines: [{ key: 'loss', label: both ? 'total' : 'loss' }, ...(both ? banks('lossVisual', 'lossTextual') : [])],
    },
    {
      id: 'kl',
      title: 'KL divergence from the teacher',
      unit: 'number',
      source: 'steps',
      hint: `What of the loss can still be learnt: the loss less the target entropy, in nats.${queue === 'none' ? '' : ' It, too, rises while a queue fills.'}`,
      lines: banks('klVisual', 'klTextual'),
    },
    {
      id: 'top1',
      title: 'Zero-shot top-1',
      unit: 'share',
      source: 'evaluations',
      hint: 'Share of the evaluation images whose nearest name is right.',
      lines: [
        { key: 'studentTop1', label: 'student' },
        { key: 'teacherTop1', label: 'teacher' },
      ],
    },
    {
      id: 'top5',
      title: `Zero-shot top-${ranks.most}`,
      unit: 'share',
      source: 'evaluations',
      hint: `Share of the evaluation images whose right name is among the ${ranks.words}.`,
      lines:
        ranks.most === 1
          ? []
          : [
              { key: 'studentTop5', label: 'student' },
              { key: 'teacherTop5', label: 'teacher' },
            ],
    },
    {
      id: 'others',
      title: 'Top-1 by labelled images',
      unit: 'share',
      source: 'evaluations',
      hint: 'Share of the evaluation images that the student’s features put in the right class: by their nearest labelled images, by a linear classifier fitted there, and by the online probe.',
      lines: [
        { key: 'knn', label: 'nearest neighbours' },
        { key: 'linear', label: 'linear classifier' },
        { key: 'online', label: 'online probe' },
      ],
    },
    {
      id: 'agreement',
      title: 'Agreement with the teacher',
      unit: 'share',
      source: 'steps',
      hint: 'Share of the training views that student and teacher give the same nearest name; no labels are involved.',
      lines: [{ key: 'agreement', label: 'agreement' }],
    },
    {
      id: 'entropy',
      title: 'Entropy of the targets',
      unit: 'number',
      source: 'steps',
      hint: `Of the teacher’s softmax, in nats. Near zero a target is one entry alone, ${[...(parts.textual ? ['of the textual bank a name'] : []), ...(parts.visual === undefined ? [] : [`of the ${parts.visual} the view’s own embedding`])].join(', ')}, and tells nothing of the others.`,
      lines: banks('entropyVisual', 'entropyTextual'),
    },
    {
      id: 'own',
      title: 'Own-embedding mass',
      unit: 'share',
      source: 'steps',
      hint: `Share of the ${parts.visual === 'visual part' ? 'visual target' : `target over the ${parts.visual}`} that lies on the teacher’s embedding of the same view. At 100 % nothing else has a share in it.`,
      lines: [{ key: 'ownMass', label: 'own mass' }],
    },
    ...otherSpecs,
  ];
}

function lossHint({ visual, textual, both, queue, feature }: LossParts): string {
  const regression = 'one less the cosine between the student’s embedding of a view and the teacher’s';
  if (feature === 'all') return `It is ${regression}, and falls towards zero.`;
  const over = [...(visual === undefined ? [] : [`the ${visual}`]), ...(textual ? ['the textual bank'] : [])].join(
    ' or ',
  );
  const falls = 'falls towards the target entropy, not to zero';
  const course = {
    none: `It ${falls}.`,
    some: `It ${falls}; with a queue it first rises, to about the logarithm of the queue’s size, while that fills.`,
    all: `It rises while the queue fills, to about the logarithm of its size; then it ${falls}.`,
  }[queue];
  return `Cross-entropy in nats${both ? '; the total is the weighted sum of both parts' : ` over ${over}`}. ${course}${feature === 'some' ? ` Of method feature it is ${regression}.` : ''}`;
}

/** How many nearest names count beside the first. */
interface Ranks {
  most: number;
  words: string;
}

const numbers = ['no', 'one', 'two', 'three', 'four', 'five'] as const;

/** Five, or all of fewer classes; runs may differ in it. */
function ranksOf(runs: readonly RunFacts[]): Ranks {
  const scores = runs.flatMap(({ evaluations }) => evaluations.flatMap(({ student }) => student ?? []));
  const most = Math.max(0, ...scores.map(({ topK }) => topK)) || 5;
  const nearest = `${numbers[most] ?? most} nearest`;
  if (scores.some(({ topK }) => topK !== most))
    return { most, words: `${nearest}, or among all where there are fewer` };
  return {
    most,
    words:
      scores.length > 0 && scores.every(({ classes }) => classes === most)
        ? `${nearest}, which are all there are: always 100\u00a0%`
        : nearest,
  };
}

const otherSpecs: readonly ChartSpec[] = [
  {
    id: 'coverage',
    title: 'Bank coverage',
    unit: 'count',
    source: 'steps',
    hint: 'Categories that any image was assigned to so far, and those hit by the batch.',
    lines: [
      { key: 'categoriesSeen', label: 'seen' },
      { key: 'categoriesHit', label: 'hit in the batch' },
    ],
  },
  {
    id: 'rate',
    title: 'Learning rate',
    unit: 'number',
    source: 'steps',
    hint: 'As the schedule had it at each step.',
    lines: [{ key: 'learningRate', label: 'learning rate' }],
  },
  {
    id: 'gradient',
    title: 'Gradient norm',
    unit: 'number',
    source: 'steps',
    hint: 'Of all parameters together, before clipping; above train.clipNorm a step is clipped.',
    lines: [{ key: 'gradientNorm', label: 'norm' }],
  },
  {
    id: 'speed',
    title: 'Throughput',
    unit: 'count',
    source: 'steps',
    hint: 'Training images a second over the last steps, pauses left out.',
    lines: [{ key: 'imagesPerSecond', label: 'images/s' }],
  },
  {
    id: 'wait',
    title: 'Time away from the device',
    unit: 'share',
    source: 'steps',
    hint: 'Share of the training time in which the loop prepared batches, or waited for a teacher outside the device, instead of waiting for the device.',
    lines: [
      { key: 'dataWait', label: 'batches and teacher' },
      { key: 'teacherWait', label: 'teacher alone' },
    ],
  },
];
