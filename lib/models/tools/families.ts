/** How each tool names each family of students; what is left out the tool lacks, which `export --to` then says. */
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

export const namings: Readonly<Record<StudentFamily, Readonly<Partial<Record<Tool, FamilyNaming>>>>> = {
  resnet: {
    torchvision: own,
    timm: timm.resnet,
    mmdet: mmdet.resnet,
    mmseg: mmseg.resnet,
    detectron2: detectron2.resnet,
  },
  mobilenet_v2: { torchvision: own, timm: timm.mobilenetV2, mmdet: mmdet.mobilenetV2, mmseg: mmseg.mobilenetV2 },
  mobilenet_v3: { torchvision: own, timm: timm.mobilenetV3, mmseg: mmseg.mobilenetV3 },
  mobilenet_v4: { timm: timm.own },
  efficientnet: { torchvision: own, timm: timm.efficientnet, mmdet: mmdet.efficientnet },
  efficientnet_v2: { torchvision: own, timm: timm.efficientnetV2 },
  convnext: { timm: timm.convnext },
  tf_efficientnetv2: { timm: timm.ownTf },
  efficientnet_lite: { timm: timm.own },
  vit: { timm: timm.vit }, // torchvision's smallest is vit_b_16, with other names
};
