/** How each tool names each family of students; undefined: the tool lacks it, which `export --to` then says. */
import type { StudentFamily } from '../students/definition.js';
import { detectron2 } from './detectron2.js';
import { mmdet, mmseg } from './mm.js';
import { ownNames, type FamilyNaming, type Tool } from './naming.js';
import { timm } from './timm.js';

/** A tool by whose names this package calls the student's modules. */
const own: FamilyNaming = ({ architecture, graph }, { classifier }) => ({
  model: architecture,
  modules: ownNames(graph, classifier),
});

export const namings: Readonly<Record<StudentFamily, Readonly<Record<Tool, FamilyNaming | undefined>>>> = {
  resnet: {
    torchvision: own,
    timm: timm.resnet,
    mmdet: mmdet.resnet,
    mmseg: mmseg.resnet,
    detectron2: detectron2.resnet,
  },
  mobilenet_v2: {
    torchvision: own,
    timm: timm.mobilenetV2,
    mmdet: mmdet.mobilenetV2,
    mmseg: mmseg.mobilenetV2,
    detectron2: undefined,
  },
  mobilenet_v3: {
    torchvision: own,
    timm: timm.mobilenetV3,
    mmdet: undefined,
    mmseg: mmseg.mobilenetV3,
    detectron2: undefined,
  },
  mobilenet_v4: {
    torchvision: undefined,
    timm: timm.own,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
  efficientnet: {
    torchvision: own,
    timm: timm.efficientnet,
    mmdet: mmdet.efficientnet,
    mmseg: undefined,
    detectron2: undefined,
  },
  efficientnet_v2: {
    torchvision: own,
    timm: timm.efficientnetV2,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
  convnext: {
    torchvision: undefined,
    timm: timm.convnext,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
  tf_efficientnetv2: {
    torchvision: undefined,
    timm: timm.ownTf,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
  efficientnet_lite: {
    torchvision: undefined,
    timm: timm.own,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
  vit: {
    torchvision: undefined, // its smallest is vit_b_16, with other names
    timm: timm.vit,
    mmdet: undefined,
    mmseg: undefined,
    detectron2: undefined,
  },
};
