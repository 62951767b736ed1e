/** A category list that ships with the package. */
export interface BuiltinList {
  readonly names: readonly string[];
  /** Where the list comes from, and how the spelling here differs from the original. */
  readonly provenance: string;
}

const split = (text: string): readonly string[] => text.trim().split(/\s*,\s*/);

/**
 * Category lists known by id, in the data sets' own order of classes (the order of their label indices).
 * Spelling is the data sets' own, written for prompts: underscores are blanks and run-together words are parted.
 */
export const builtinLists: Readonly<Record<string, BuiltinList>> = {
  coco: {
    provenance: 'COCO 2017 detection, the 80 object categories in annotation order (cocodataset.org)',
    names: split(`
      person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
      fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow,
      elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
      skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
      wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
      broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
      dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
      toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush`),
  },
  cifar10: {
    provenance: 'CIFAR-10, in label order (Krizhevsky 2009, batches.meta)',
    names: split('airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck'),
  },
  cifar100: {
    provenance: 'CIFAR-100, the fine labels in label order (Krizhevsky 2009, meta); underscores written as blanks',
    names: split(`
      apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle,
      bowl, boy, bridge, bus, butterfly, camel, can, castle, caterpillar, cattle,
      chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur,
      dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard,
      lamp, lawn mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain,
      mouse, mushroom, oak tree, orange, orchid, otter, palm tree, pear, pickup truck, pine tree,
      plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, rocket,
      rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider,
      squirrel, streetcar, sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor,
      train, trout, tulip, turtle, wardrobe, whale, willow tree, wolf, woman, worm`),
  },
  voc: {
    provenance: 'PASCAL VOC 2007-2012, in alphabetical (label) order; diningtable, pottedplant and tvmonitor written as two words',
    names: split(`
      aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
      dining table, dog, horse, motorbike, person, potted plant, sheep, sofa, train, tv monitor`),
  },
  cityscapes: {
    provenance: 'Cityscapes, the 19 classes of its evaluation in training-id order (cityscapes-dataset.com)',
    names: split(`
      road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain,
      sky, person, rider, car, truck, bus, train, motorcycle, bicycle`),
  },
};

/** The ids of the built-in lists, for messages and help. */
export const builtinIds: readonly string[] = Object.keys(builtinLists);
