import { LgdError } from '../errors.js';
import { isFolder } from '../files/folders.js';
import { openSafetensors } from '../files/safetensors.js';
import { readListed } from '../files/manifest.js';
import type { TensorRecord } from '../files/safetensors.js';
import type { Student } from '../models/student.js';
import { isProjection } from '../models/students/definition.js';
import { findStudent, listStudents } from '../models/students/registry.js';
import { fitPositions } from '../models/position-tables.js';
import { fromTool, toolNaming } from '../models/tools/convert.js';
import { absentFrom, modulesOf, tools, type NamedStudent, type ToolNaming } from '../models/tools/naming.js';
import { checkWeights, notFinite, type WeightRecord } from '../models/weights.js';
import { followed } from '../files/checkpoint-folders.js';
import { findStudentFile } from '../runs/student-file.js';

/**
 * What stands in the projection head's place elsewhere: classifiers, in Detectron2 below `stem`, and in timm's
 * MobileNetV3 the convolution before one.
 */
const classifier = new RegExp(
  `^(?:stem\\.)?(?:${[...new Set(listStudents().map((name) => findStudent(name).classifier)), 'conv_head'].join('|').replaceAll('.', '\\.')})\\.`,
  'u',
);

/**
 * Starts a student from a file of weights: a student of this package, however exported, or a backbone from torchvision,
 * timm, MMDetection, MMSegmentation or Detectron2. The names tell which. Its projection head may be missing (it then
 * keeps its seeded start), a classifier is left out. A table of positions for another resolution is interpolated.
 * @returns what to say about it
 * @throws LgdError FILE_NOT_FOUND, BAD_FILE, BAD_CHECKPOINT (damaged, in a checkpoint), BAD_MODEL naming what does not
 *   fit
 */
export async function loadStartWeights(student: Student, file: string): Promise<string[]> {
  await checkNoFolder(file);
  const { tensors } = await readListed(await followed(file));
  try {
    const { start, remarks } = startOf(student, tensors);
    const broken = notFinite(start); // the first step would blame the learning rate
    if (broken !== undefined)
      throw new LgdError('BAD_MODEL', `${broken} has a value that is no finite number.`, {
        mend: 'Give weights of a training that did not diverge',
      });
    student.load(start);
    return remarks;
  } catch (cause) {
    throw new LgdError('BAD_MODEL', `${file} does not fit ${student.name}: ${(cause as Error).message}`, {
      option: 'student.weights',
      mend: 'Check student.name and student.widthMultiplier',
      cause,
    });
  }
}

/** Is it a file of weights, as far as its header tells? @throws LgdError FILE_NOT_FOUND, BAD_FILE */
export async function checkStartFile(file: string): Promise<void> {
  await checkNoFolder(file);
  await (await openSafetensors(await followed(file)))[Symbol.asyncDispose]();
}

/** Names the file that is meant where a folder has one: what was exported for a tool, a checkpoint, or a run. */
async function checkNoFolder(path: string): Promise<void> {
  if (!(await isFolder(path))) return;
  const file = await findStudentFile(path).catch(() => undefined);
  throw new LgdError('BAD_FILE', `${path} is a folder.`, {
    option: 'student.weights',
    allowed: 'a .safetensors file',
    mend: file === undefined ? 'Give a file of weights' : `Give the file in it: ${file}`,
  });
}

function startOf(
  student: Student,
  tensors: ReadonlyMap<string, TensorRecord>,
): { start: WeightRecord; remarks: string[] } {
  const { graph, weights: seeded } = student;
  const { naming, read } = bestNaming(
    { architecture: student.name, widthMultiplier: student.widthMultiplier, graph },
    tensors,
  );
  const hasHead = Object.entries(seeded).every(
    ([name, { shape }]) => !isProjection(name) || read.weights[name]?.shape.join() === shape.join(),
  );
  const absent = absentFrom(naming, graph); // layers that the tool's architecture ends before
  const starts = Object.entries(seeded).filter(([name]) => (isProjection(name) ? !hasHead : absent.has(name)));
  const record: WeightRecord = Object.fromEntries([
    ...starts,
    ...Object.entries(read.weights).filter(([name]) => hasHead || !isProjection(name)),
    // named by the check
    ...read.others.filter((name) => !classifier.test(name)).map((name) => [name, tensors.get(name)!] as const),
  ]) as WeightRecord;
  const { weights, remarks } = fitPositions(graph, record);
  checkWeights(graph, weights);
  return { start: weights, remarks };
}

/** The names, this package's or a tool's, by which most of the student is in the file. */
function bestNaming(
  student: NamedStudent,
  tensors: ReadonlyMap<string, TensorRecord>,
): { naming: ToolNaming; read: ReturnType<typeof fromTool> } {
  const own: ToolNaming = {
    model: student.architecture,
    modules: new Map(modulesOf(student.graph).map((name) => [name, name])),
  };
  const known = [
    own,
    ...tools.flatMap((tool) => {
      try {
        return [toolNaming(tool, student)];
      } catch {
        return []; // a student that this tool has not
      }
    }),
  ];
  const read = known.map((naming) => ({ naming, read: fromTool(tensors, student.graph, naming) }));
  return read.reduce((best, one) =>
    Object.keys(one.read.weights).length > Object.keys(best.read.weights).length ? one : best,
  );
}
