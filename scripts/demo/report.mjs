// What the demo says at its end.
import { resolution } from './presets.mjs';
import { heldOutVendor } from './vendors.mjs';

const vendorNames = { 'fluent-emoji-flat': 'Fluent', twemoji: 'Twemoji' };
const batch = 64;

/** Zero-shot scores of teacher and student. */
export async function score(evaluation, { teacher, student, precision, signal }) {
  const encoder = student.compile({ batch, resolution, precision, training: false });
  try {
    return {
      teacher: await evaluation.evaluateTeacher(teacher, { batch, precision, signal }),
      student: await evaluation.evaluateEncoder(encoder, { signal }),
    };
  } finally {
    encoder.dispose();
  }
}

/** Parameters, multiply-adds an image and images a second, embedding on this device. */
export async function measure(lgd, { teacher, student, precision, signal }) {
  const one = async (encoder) => {
    try {
      const { imagesPerSecond } = await lgd.measureInference(encoder, { seconds: 1, signal });
      const { parameters, macsPerImage } = encoder.info;
      return { parameters, macsPerImage, imagesPerSecond };
    } finally {
      encoder.dispose();
    }
  };
  return {
    teacher: await one(teacher.compile({ batch, precision })),
    student: await one(student.compile({ batch, resolution, precision, training: false })),
  };
}

/** The numbers of summary.json: of the held-out vendor, and of each other one under its name. */
export function summarise({ scores, training, seconds, classes, images }) {
  const numbers = ({ teacher, student }) => ({
    teacherTop1: teacher.top1,
    studentTop1: student.top1,
    teacherTop5: teacher.top5,
    studentTop5: student.top5,
  });
  const { [heldOutVendor]: heldOut, ...others } = scores;
  return {
    ...numbers(heldOut),
    seconds,
    imagesPerSecond: training.imagesPerSecond,
    classes,
    images,
    ...Object.fromEntries(Object.entries(others).map(([vendor, pair]) => [vendor, numbers(pair)])),
  };
}

/** Teacher and student side by side. */
export function printTable(say, { scores, speed, student }) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const millions = (value) => `${(value / 1e6).toFixed(2)} M`;
  const vendors = Object.keys(scores);
  const head = [
    '',
    ...vendors.flatMap((vendor) => [`${vendorNames[vendor]} top-1`, 'top-5']),
    'parameters',
    'MACs',
    'images/s',
  ];
  const title = {
    teacher: 'teacher, tiny CLIP',
    student: `student, ${student.name}${student.widthMultiplier === 1 ? '' : ` x ${student.widthMultiplier}`}`,
  };
  const rows = ['teacher', 'student'].map((who) => [
    title[who],
    ...vendors.flatMap((vendor) => [percent(scores[vendor][who].top1), percent(scores[vendor][who].top5)]),
    millions(speed[who].parameters),
    millions(speed[who].macsPerImage),
    speed[who].imagesPerSecond.toFixed(0),
  ]);
  const widths = head.map((text, column) => Math.max(text.length, ...rows.map((row) => row[column].length)));
  for (const row of [head, widths.map((width) => '-'.repeat(width)), ...rows])
    say(row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join('  '));
}
