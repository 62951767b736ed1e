// devices, errors, files
export { openDevice, Device, type DeviceInfo, type DeviceKind, type DeviceName, type DeviceOptions } from './device.js';
export { errorCodes, LgdError, type ErrorCode, type ErrorDetails } from './errors.js';
export { readSafetensors, writeSafetensors, type SafetensorsFile, type TensorRecord } from './files/safetensors.js';
export { adviseSpeed, readMachine, type AddonFacts, type Machine, type SpeedAdvice } from './machine/advice.js';
export { inspectSystem, type DependencyState, type SystemProblem, type SystemReport } from './machine/system.js';
export type { ProbeResult } from './addon/cuda-probe.js';
export type { ProbeTrial, TimedTrial } from './addon/cuda-probe-child.js';
export type {
  BuildInfo,
  CudaStatus,
  DeviceFeatures,
  DeviceHandle,
  EncoderHandle,
  EncoderInfo,
  GraphNode,
  Handle,
  NativeAddon,
  NativeAugmentRecipe,
  NativeBankLossArguments,
  NativeClassifierArguments,
  NativeDetectionArguments,
  NativeDeviceInfo,
  NativeGraph,
  NativePixelFile,
  ParameterSlot,
  PixelStoreHandle,
  RowFileHandle,
  SemanticHeadHandle,
  SemanticMetrics,
  SemanticOptions,
  SemanticState,
  StepHandle,
  GraphWay,
  StepInfo,
  TensorHandle,
} from './addon/native.js';
export { version } from './package.js';

// configuration
export {
  configOptions,
  loadConfigFile,
  mergeConfig,
  parseConfig,
  type ChosenMethod,
  type Config,
  type ConfigInput,
  type ConfigOption,
  type Method,
  type OptionType,
} from './config/config.js';
export type { BatchChoice, BatchNumbers, RunConfig } from './config/batch.js';

export {
  checkAnswer,
  initialConfig,
  knownAnswers,
  knownTeachers,
  suggestAnswers,
  writeConfigFile,
  type InitAnswers,
  type InitialConfig,
} from './config/init.js';

// names and text
export { CategoryList } from './text/names.js';
export { writeNames, type WriteNamesOptions } from './text/names-file.js';
export { builtinLists, describeBuiltin, type BuiltinList } from './text/builtin.js';
export { formatReport, type CheckOptions, type NameAt, type NameReport } from './text/doctor.js';
export type { EncodeOptions, TextEncoder, TextEncoderOptions } from './text/encoder.js';
export { ClipTextEncoder } from './text/onnx-encoder.js';
export { loadTextEncoder } from './text/load-encoder.js';
export { NativeTextEncoder, type NativeTextEncoderOptions } from './text/native-encoder.js';
export { fillTemplate, loadTemplates, templateSets } from './text/templates.js';

// banks and the semantic loss
export {
  TextualSemanticsBank,
  type BankInfo,
  type BuildOptions,
  type NearestNames,
  type NearestOptions,
} from './banks/textual.js';
export { bankFromFile, type EmbeddedBank, type EmbeddingsFileOptions } from './banks/embeddings-file.js';
export { VisualSemanticsBank } from './banks/visual.js';
export { MemoryQueue } from './banks/memory.js';
export { bankLoss, bankUpdate, featureLoss, type BankLossOptions, type SemanticCallOptions } from './semantic/index.js';
export type {
  BankLossInput,
  BankLossOutput,
  BankUpdateInput,
  BankUpdateOutput,
  FeatureLossInput,
  FeatureLossOutput,
} from './semantic/types.js';

// models
export * from './models/index.js';

// images
export { ImageCache, type ImageCacheOptions, type PreparedImages, type StreamOptions } from './data/cache.js';
export type { BrokenImage } from './data/decode.js';
export type { CacheProgress } from './data/decode-all.js';
export { openImageFolder, type ImageFolderOptions } from './data/image-folder.js';
export { imagesFromBuffers, type ImageBytes, type ImageSource } from './data/sources.js';

export { openImages, type OpenImagesOptions } from './data/open-images.js';
export { chooseMode, openDataset, type CacheMode } from './data/open-dataset.js';
export { StreamedImages, type DecodeRate, type StreamedImagesOptions } from './data/streamed.js';
export { readAhead, type PreparableImages } from './data/read-ahead.js';
export { packImages, type PackOptions, type PackResult } from './data/pack/pack.js';
export { PackFile } from './data/pack/reader.js';
export { packKinds, type PackIndex, type PackKind, type PackRecipe } from './data/pack/format.js';
export { measureData, type DataRow, type MeasureDataOptions } from './data/measure.js';

export { BatchPlan, type BatchPlanState, type PlannedBatch } from './data/loader.js';
export { readViews, type ViewBatch, type ViewOptions } from './data/views.js';

// training
export { Distiller, type DistillerOptions, type DistillerState } from './train/distiller.js';
export type { StepTaker } from './train/step-taker.js';
export type { MemoryUse, QueueOptions, Stage, StepMetrics, StepTicket } from './train/steps.js';
export { makeSchedule, type Schedule, type ScheduleOptions } from './train/schedule.js';
export { preflight, type PreflightOptions, type PreflightReport, type TimedStage } from './train/preflight.js';
export type { BatchMemory } from './train/batch-memory.js';
export { verifyDevice, type Verification, type VerifiedPart, type VerifyOptions } from './train/verify/verify.js';
export { TeacherViewCache, type ViewCacheOptions } from './train/view-cache.js';
export type { Batch, Dataset } from './train/batch.js';
export type {
  CheckpointEvent,
  DoneEvent,
  EvaluationEvent,
  InterruptedEvent,
  RunEvent,
  StartEvent,
  StepEvent,
} from './train/events.js';
export type { Wait, WaitedFor, WaitingEvent } from './stall.js';
export { changeableOptions } from './train/resume/continued.js';
export type { RunOptions } from './train/course.js';
export { prepareRun, resumeConfig, type PreparedRun, type PrepareOptions } from './train/setup.js';
export type { OnlineState } from './runs/checkpoint.js';
export type { Phase, PhaseProgress } from './runs/phase.js';
export { loadStudent, readStudent, type StudentInfo } from './runs/student-file.js';

// evaluation and export
export { evaluateProtocol, type ProtocolOptions } from './evaluate/protocols.js';
export { protocols, type Protocol, type ProtocolEvaluation, type ProtocolResult } from './evaluate/protocol-result.js';
export type { Answers, ClassScore } from './evaluate/accuracy.js';
export type { SweepPoint } from './evaluate/probe.js';
export { OnlineProbe, type OnlineImages } from './evaluate/online.js';
export type { LabelledSet } from './evaluate/labelled.js';
export type { EmbedOptions } from './evaluate/embed.js';
export { FrozenEvaluation, type FrozenEvaluationOptions, type FrozenScores } from './evaluate/during-training.js';
export {
  evaluateStudent,
  type Predictions,
  type StudentEvaluation,
  type StudentEvaluationOptions,
} from './evaluate/student.js';
export { ZeroShotEvaluation, type EvaluateOptions, type ZeroShotOptions } from './evaluate/zeroshot.js';
export type { OtherProtocol, ZeroShotScore } from './evaluate/score.js';
export { benchmark, type BenchmarkOptions, type BenchmarkRow } from './evaluate/benchmark.js';
export {
  measureInference,
  measureSemantic,
  measureTraining,
  type MeasureOptions,
  type SemanticShape,
  type Timing,
} from './evaluate/throughput.js';

// a student at work
export { Classifier, type ClassifierOptions, type LookOptions, type NamedCosine } from './predict/classifier.js';
export { classifyImages, type Classification, type ClassifyOptions } from './predict/classify.js';
export { classifiedImages, writeClassification, type ClassifiedImage } from './predict/classes-file.js';
export { computeEmbeddings, type EmbeddingsOptions, type ImageEmbeddings } from './predict/embeddings.js';
export type { ImagesGiven, Looked } from './predict/looking.js';
export { openImageFiles } from './data/image-files.js';

// segmentation and detection
export {
  evaluateSegmentation,
  trainSegmentation,
  type ScoreOptions,
  type SegmentationEvaluationOptions,
  type SegmentationEvent,
  type SegmentationTraining,
} from './dense/segmentation.js';
export { evaluateZeroShotSegmentation, type ZeroShotSegmentationOptions } from './dense/zero-shot.js';
export { Segmenter, type Segmentation, type SegmentOptions } from './dense/segmenter.js';
export type { SegmentationScore } from './dense/intersection.js';
export {
  evaluateDetection,
  trainDetection,
  type DetectionEvaluationOptions,
  type DetectionEvent,
  type DetectionStart,
  type DetectionLosses,
  type DetectionScoreOptions,
  type DetectionTraining,
} from './dense/detection.js';
export { Detector, type DetectOptions } from './dense/detector.js';
export type { DenseTrainingEvent } from './dense/training.js';
export type { DecodeOptions } from './dense/detection-decode.js';
export { averagePrecision, type Detection, type DetectionScore } from './dense/average-precision.js';
export { readCoco, type Annotation, type BoxedImages } from './data/coco.js';
export type { DenseInfo, DenseTask } from './runs/network-file.js';
export type { SegmentationHead } from './models/heads/segmentation.js';

// reports
export { reportDefaults, writeReport, type ReportOptions, type ReportResult } from './report/report.js';
export { writeTensorBoard, type TensorBoardFile } from './report/tensorboard.js';
export {
  compareRuns,
  type ComparedRun,
  type CompareOptions,
  type RunComparison,
  type RunGroup,
  type ShareWithInterval,
  type Spread,
} from './report/compare.js';
export type { RunSummary, TimeShare } from './report/summary.js';

export {
  defaultOutput,
  exportFormats,
  exportStudent,
  exportTarget,
  type ExportFormat,
  type ExportOptions,
  type ExportResult,
} from './export/student.js';
export type { Comparison } from './export/compare.js';
export type { Quantization } from './export/quantize.js';
