/** What tests of the protocols share: an untrained student, and drawings to learn from and to be judged on. */
import { join } from 'node:path';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import type { ProtocolEvaluation } from '../../lib/evaluate/protocol-result.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { writeMadeUpStudent } from '../fixtures/student.js';
import { drawShapes } from '../fixtures/tiny.js';

/** Width multiplier of the student. */
export const widthMultiplier = 0.35;
/** Drawings a class. */
export const [trainCount, testCount] = [12, 5];

/** A folder for one test file. */
export class ProtocolRuns {
  readonly folder = temporaryFolder();
  readonly at = (...parts: string[]): string => join(this.folder, ...parts);
  readonly student = this.at('student.safetensors');

  /** Writes the student, `train` and `test`. */
  async prepare(): ReturnType<typeof writeMadeUpStudent> {
    await drawShapes(this.at('train'), { count: trainCount, telling: true });
    await drawShapes(this.at('test'), { count: testCount, seed: 2, telling: true });
    return writeMadeUpStudent(this.student, 'mobilenet_v2', { widthMultiplier, resolution: 32 });
  }

  /** Evaluates it. */
  readonly run = (
    protocol: ProtocolEvaluation['protocol'],
    evaluate: object = {},
    teacher?: string,
  ): Promise<ProtocolEvaluation> =>
    evaluateProtocol({
      student: this.student,
      protocol,
      config: {
        device: 'cpu',
        seed: 5,
        teacher,
        evaluate: { data: this.at('test'), train: this.at('train'), output: this.at('out'), ...evaluate },
      },
    });
}
