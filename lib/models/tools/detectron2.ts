/** Detectron2's names: ResNets alone, `stem.conv1`, `res2.0.conv1`, and each norm under its convolution. */
import { ownNames, unsupported, type NamedStudent, type ToolNaming } from './naming.js';

/** @throws LgdError BAD_OPTION for a student that is no ResNet */
export function detectron2Naming(student: NamedStudent, instead: () => string): ToolNaming {
  if (!student.architecture.startsWith('resnet')) throw unsupported('detectron2', student, 'resnet18, resnet34, resnet50', instead());
  return { model: 'build_resnet_backbone', modules: new Map([...ownNames(student.graph, undefined).keys()].map((name) => [name, renamed(name)])), eps: 1e-5 };
}

function renamed(name: string): string {
  const place = name.replace(/^layer(\d)\./u, (_, stage: string) => `res${Number(stage) + 1}.`).replace(/^(?=conv1$|bn1$)/u, 'stem.');
  return place.replace(/downsample\.0$/u, 'shortcut').replace(/downsample\.1$/u, 'shortcut.norm').replace(/bn(\d)$/u, 'conv$1.norm');
}
