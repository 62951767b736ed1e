export { CompiledEncoder, type CompileOptions, type Precision } from './compiled.js';
export { createEncoder, Encoder, type EncoderOptions, type ForwardOptions } from './encoder.js';
export {
  countParameters,
  GraphBuilder,
  type Activation,
  type BuilderOptions,
  type ConvOptions,
  type GraphParameter,
  type GraphSpec,
  type Initialisation,
  type LinearOptions,
  type Value,
} from './graph.js';
export { initialWeights } from './initialise.js';
export type {
  AdamwOptimizer,
  Optimizer,
  OptimizerState,
  OptimizerStep,
  SgdOptimizer,
  WholeOptimizer,
} from './optimizer.js';
export {
  createStudent,
  Student,
  studentGraph,
  type GraphOptions,
  type StudentKind,
  type StudentOptions,
} from './student.js';
export { listStudents } from './students/registry.js';
export { modifiedResNet, type ModifiedResNetConfig } from './teachers/modified_resnet.js';
export { loadTeacher, type AnyTeacher, type TeacherOptions } from './teachers/load.js';
export { NativeTeacher, type NativeTeacherOptions } from './teachers/native.js';
export { OnnxTeacher, type OnnxTeacherOptions } from './teachers/onnx.js';
export { PrecomputedTeacher, type PrecomputedInfo } from './teachers/precomputed.js';
export type { Preprocessing } from './teachers/preprocessor.js';
export type { ChannelTriple, CustomTeacherApi, PrecomputedTeacherApi, Teacher } from './teachers/types.js';
export type { WeightRecord } from './weights.js';
