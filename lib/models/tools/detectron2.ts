/** Detectron2's names: ResNets alone, `stem.conv1`, `res2.0.conv1`, and each norm under its convolution. */
import { ownNames, type FamilyNaming } from './naming.js';

const resnet: FamilyNaming = ({ graph }, { variant }) => {
  const depth = Number(variant);
  return {
    model: 'build_resnet_backbone',
    eps: 1e-5,
    modules: new Map([...ownNames(graph, undefined).keys()].map((name) => [name, renamed(name)])),
    options: { DEPTH: depth, RES2_OUT_CHANNELS: depth < 50 ? 64 : 256, STRIDE_IN_1X1: false },
  };
};

export const detectron2 = { resnet };

function renamed(name: string): string {
  const place = name
    .replace(/^layer(\d)\./u, (_, stage: string) => `res${Number(stage) + 1}.`)
    .replace(/^(?=conv1$|bn1$)/u, 'stem.');
  return place
    .replace(/downsample\.0$/u, 'shortcut')
    .replace(/downsample\.1$/u, 'shortcut.norm')
    .replace(/bn(\d)$/u, 'conv$1.norm');
}
