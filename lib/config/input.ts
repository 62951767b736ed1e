/** Written by `npm run docs:options` from the schema in lib/config/schema.ts; a test fails where it is older. */

/** What {@link parseConfig} accepts: any part of a configuration. What is left out, or undefined, has its default. */
export interface ConfigInput {
  /**
   * Where to compute; auto takes a CUDA device if there is one. Allowed: auto, cpu, cuda, cuda:N or cuda-emulated.
   * Default: `auto`.
   */
  device?: string | undefined;
  /** Threads for work on the CPU (default: all cores). Allowed: a whole number from 1 to 4096. */
  threads?: number | undefined;
  /**
   * Seed of every random number: weights, shuffling, augmentation, dropout, visual anchors. Allowed: a whole number
   * from 0. Default: `0`.
   */
  seed?: number | undefined;
  /** Run folder: configuration, metrics, checkpoints, report. Default: `runs/distill`. */
  output?: string | undefined;
  /** Empty the run folder first when it holds an earlier run. Default: `false`. */
  overwrite?: boolean | undefined;
  /** Take models from local folders and the cache only, never from the network. Default: `false`. */
  offline?: boolean | undefined;
  /**
   * Category names: a .txt, .json, .csv or .tsv file, a folder of class folders, a built-in list, or a JSON list of the
   * names themselves.
   */
  names?: string | readonly string[] | undefined;
  /** Prompt templates: a built-in set, a file with one a line, or the templates. Default: `default`. */
  templates?: string | readonly string[] | undefined;
  /** Keep names that are given more than once. Default: `false`. */
  allowDuplicates?: boolean | undefined;
  /** Text tower of CLIP or SigLIP: a folder or a hub id (default: the teacher's). */
  textEncoder?: string | undefined;
  /** Text bank built before (lgdistill bank), in the place of names, templates and text encoder. */
  bank?: string | undefined;
  /**
   * Teacher: a folder or hub id of CLIP, SigLIP, PE-Core, DINO, DINOv2, DINOv3 or a ViT, an .onnx image tower, an
   * earlier student, or a .safetensors file of embeddings.
   */
  teacher?: string | undefined;
  /**
   * Side of the teacher's input in pixels, of a teacher that works at more than one, such as DINOv2 (default: as the
   * model's files say). Allowed: a whole number from 8 to 1024.
   */
  teacherResolution?: number | undefined;
  /**
   * auto: seed with fewer than 50 names, else lgd; lgd: both banks; text or visual: that bank alone; seed: a queue of
   * past teacher embeddings; hybrid: visual bank and queue; combined: both banks and the queue; feature: cosine
   * regression to the teacher. Default: `auto`.
   */
  method?: 'auto' | 'lgd' | 'text' | 'visual' | 'seed' | 'hybrid' | 'combined' | 'feature' | undefined;
  /** Training images, and how they are decoded and kept. */
  data?:
    | {
        /**
         * Training images: a folder, any depth, a pack (lgdistill pack), tar shards, CIFAR or parquet files; labels are
         * not needed.
         */
        train?: string | undefined;
        /** Side of the student's input in pixels (default: the teacher's). Allowed: a whole number from 32 to 1024. */
        resolution?: number | undefined;
        /**
         * Images are kept with their short side at margin times the larger input (student or teacher), so that crops
         * stay sharp. Allowed: a number from 1 to 4. Default: `1.25`.
         */
        margin?: number | undefined;
        /**
         * Decoded images kept in memory, in MiB; the rest goes to a file. Allowed: a number from 0. Default: `2048`.
         */
        cacheMemory?: number | undefined;
        /**
         * When images are decoded: all before training, each when a batch needs it, or (auto) all if they fit
         * cacheMemory and half of the free disk. Default: `auto`.
         */
        cache?: 'auto' | 'all' | 'stream' | undefined;
        /**
         * Batches decoded, or read from a pack, ahead of training. Allowed: a whole number from 1 to 64. Default: `4`.
         */
        readAhead?: number | undefined;
        /** Folder of the file of decoded images that cacheMemory does not hold (default: the run folder). */
        spillFolder?: string | undefined;
        /**
         * Share of images that may fail to decode before the run stops. Allowed: a number from 0 to 1. Default: `0.05`.
         */
        maxBrokenShare?: number | undefined;
      }
    | undefined;
  /** The teacher's embeddings of views that come back. */
  teacherCache?:
    | {
        /**
         * Views of each image that come back, whose teacher embeddings are kept in a file: epoch e shows view e modulo
         * this number; 0: new views in every epoch. Allowed: a whole number from 0 to 1000. Default: `0`.
         */
        views?: number | undefined;
        /**
         * File of those teacher embeddings, which later runs may share (default: teacher-views.lgd in the run folder).
         */
        file?: string | undefined;
      }
    | undefined;
  /** The student that `prepareRun` makes. */
  student?:
    | {
        /**
         * Architecture of the student, by its name in torchvision, else in timm; several with commas are trained side
         * by side, each in a folder of its own below the run folder. Default: `mobilenet_v2`.
         */
        name?: string | undefined;
        /**
         * Scales the channels of students that have such a multiplier. Allowed: a number from 0.1 to 4. Default: `1`.
         */
        widthMultiplier?: number | undefined;
        /** Stochastic depth, where the architecture has it: EfficientNets, ConvNeXts. Default: `true`. */
        dropping?: boolean | undefined;
        /**
         * Weights to start from: a .safetensors file with the names of torchvision, timm or what else export writes
         * (default: seeded initialisation).
         */
        weights?: string | undefined;
      }
    | undefined;
  /** Weights, temperatures and banks of the loss. */
  loss?:
    | {
        /**
         * Weight of the visual part of the loss; the textual part has 1 - alpha (methods lgd and combined). Allowed: a
         * number from 0 to 1. Default: `0.5`.
         */
        alpha?: number | undefined;
        /** Temperature of the student's softmax. Allowed: a number from 1e-9 to 1e9. Default: `0.2`. */
        studentTemperature?: number | undefined;
        /** Temperature of the teacher's softmax. Allowed: a number from 1e-9 to 1e9. Default: `0.01`. */
        teacherTemperature?: number | undefined;
        /**
         * Momentum of the visual anchors; 0.999 is published for ImageNet. Allowed: a number from 0 to 0.999999.
         * Default: `0.99`.
         */
        momentum?: number | undefined;
        /**
         * Past teacher embeddings kept in the queue (methods seed, hybrid and combined). Allowed: a whole number from 1
         * to 10000000. Default: `4096`.
         */
        queueSize?: number | undefined;
      }
    | undefined;
  /** Schedule, batches and optimiser. */
  train?:
    | {
        /** Passes over the training images. Allowed: a whole number from 1. Default: `200`. */
        epochs?: number | undefined;
        /**
         * Images a batch; auto: 256, as published, with 100000 images, or where that makes 16 steps an epoch and 1000
         * in all; with fewer 16 to 64, the most that make 3200 steps. Allowed: auto, or a whole number from 1 to 65535.
         * Default: `auto`.
         */
        batchSize?: 'auto' | number | undefined;
        /**
         * Batches whose gradients are averaged for one optimiser step. Allowed: a whole number from 1 to 16. Default:
         * `1`.
         */
        accumulate?: number | undefined;
        /**
         * Peak learning rate for 256 images a step; it grows in proportion; auto: 0.03, as published, or 0.3 with few
         * images (see train.batchSize), less for steps of more than 128 of them; with adamw what makes steps of 0.002,
         * of a vision transformer 0.0005. Allowed: auto, or a number from 1e-9 to 1e9. Default: `auto`.
         */
        learningRate?: 'auto' | number | undefined;
        /**
         * Epochs in which the learning rate rises linearly, before the cosine to zero (not given: a tenth of the epochs
         * where that is less than 5). Allowed: a number from 0. Default: `5`.
         */
        warmupEpochs?: number | undefined;
        /**
         * What moves the weights: sgd with momentum, as published, or adamw (not given, with ConvNeXts and vision
         * transformers: adamw). Default: `sgd`.
         */
        optimizer?: 'sgd' | 'adamw' | undefined;
        /** Momentum of SGD. Allowed: a number from 0 to 0.999999. Default: `0.9`. */
        sgdMomentum?: number | undefined;
        /** Of the first moment of AdamW (default with it: 0.9). Allowed: a number from 0 to 0.999999. */
        adamwBeta1?: number | undefined;
        /** Of the second moment of AdamW (default with it: 0.999). Allowed: a number from 0 to 0.999999. */
        adamwBeta2?: number | undefined;
        /** Added to the root that AdamW divides by (default with it: 1e-8). Allowed: a number from 1e-15 to 1. */
        adamwEpsilon?: number | undefined;
        /**
         * Weight decay (not given with adamw, whose decay is decoupled from the gradient: 0.05). Allowed: a number from
         * 0 to 1. Default: `0.0001`.
         */
        weightDecay?: number | undefined;
        /**
         * Apply weight decay to all parameters, as published; false: to the weights of convolutions and linear layers
         * alone, not to norms, biases, layer scales, class tokens and positions. Default: `true`.
         */
        decayNormAndBias?: boolean | undefined;
        /**
         * Norm that the gradients of all parameters together are clipped to, as PyTorch's clip_grad_norm_ does (1 is
         * usual for vision transformers); 0 turns it off. Allowed: a number from 0 to 1e9. Default: `0`.
         */
        clipNorm?: number | undefined;
        /**
         * Storage of activations; auto is bfloat16 on CUDA and float32 on the CPU, which can only simulate the
         * roundings of bfloat16. Default: `auto`.
         */
        precision?: 'auto' | 'float32' | 'bfloat16' | undefined;
        /**
         * Stop after this many optimiser steps; the schedule still follows the epochs. Allowed: a whole number from 1.
         */
        maxSteps?: number | undefined;
        /**
         * Stop when a loss exceeds this many times the running median; 0 turns it off. Allowed: a number from 0.
         * Default: `10`.
         */
        outlierFactor?: number | undefined;
      }
    | undefined;
  /** How views are drawn. */
  augment?:
    | {
        /** Smallest share of the image that a crop may have. Allowed: a number from 1e-9 to 1. Default: `0.2`. */
        scaleMin?: number | undefined;
        /** Largest share of the image that a crop may have. Allowed: a number from 1e-9 to 1. Default: `1`. */
        scaleMax?: number | undefined;
        /** Smallest width / height of a crop. Allowed: a number from 0.01 to 100. Default: `0.75`. */
        ratioMin?: number | undefined;
        /** Largest width / height of a crop. Allowed: a number from 0.01 to 100. Default: `1.33333`. */
        ratioMax?: number | undefined;
        /** How often the view is mirrored. Allowed: a number from 0 to 1. Default: `0.5`. */
        flipProbability?: number | undefined;
        /** How often colours are jittered. Allowed: a number from 0 to 1. Default: `0.8`. */
        jitterProbability?: number | undefined;
        /** Strength of the brightness jitter. Allowed: a number from 0 to 100. Default: `0.4`. */
        brightness?: number | undefined;
        /** Strength of the contrast jitter. Allowed: a number from 0 to 100. Default: `0.4`. */
        contrast?: number | undefined;
        /** Strength of the saturation jitter. Allowed: a number from 0 to 100. Default: `0.4`. */
        saturation?: number | undefined;
        /** Strength of the hue jitter, in turns. Allowed: a number from 0 to 0.5. Default: `0.1`. */
        hue?: number | undefined;
        /** How often the view loses its colours. Allowed: a number from 0 to 1. Default: `0.2`. */
        greyProbability?: number | undefined;
        /** How often the view is blurred. Allowed: a number from 0 to 1. Default: `0.5`. */
        blurProbability?: number | undefined;
        /** Smallest sigma of the blur, in pixels of the view. Allowed: a number from 0.01 to 1000. Default: `0.1`. */
        blurSigmaMin?: number | undefined;
        /** Largest sigma of the blur. Allowed: a number from 0.01 to 1000. Default: `2`. */
        blurSigmaMax?: number | undefined;
      }
    | undefined;
  /** Evaluations while training and after it. */
  evaluate?:
    | {
        /**
         * Labelled images to evaluate on: a folder of class folders, or a pack, tar shards, CIFAR or parquet files that
         * have labels.
         */
        data?: string | undefined;
        /** Names to choose among, given as names are, if not all of the text bank's (default: the bank's). */
        names?: string | readonly string[] | undefined;
        /** Text bank to evaluate with, where the evaluation images are of another set than the names trained on. */
        bank?: string | undefined;
        /** JSON file, an object from class folder to category name, where they are not spelled alike. */
        mapping?: string | undefined;
        /**
         * Labelled images to learn from, of the kinds and the classes of evaluate.data (knn, linear, semi, finetune).
         */
        train?: string | undefined;
        /** Epochs between evaluations; 0 evaluates at the end only. Allowed: a whole number from 0. Default: `1`. */
        everyEpochs?: number | undefined;
        /**
         * Steps between evaluations, besides those after epochs; 0 turns this off. Allowed: a whole number from 0.
         * Default: `0`.
         */
        everySteps?: number | undefined;
        /**
         * Protocols that an evaluation while training runs besides zero-shot, or without names in its place; they learn
         * from evaluate.train. Default: `none`.
         */
        also?: 'none' | 'knn' | 'linear' | 'both' | undefined;
        /**
         * Train a linear classifier beside the student, on its embeddings and the class folders of data.train; the
         * student does not notice. Default: `false`.
         */
        online?: boolean | undefined;
        /**
         * What makes a checkpoint the best; auto is top1 with an evaluation folder, without names knn, linear or
         * online, and without a folder loss; knn, linear and online are top-1 of those. Default: `auto`.
         */
        metric?: 'auto' | 'top1' | 'top5' | 'loss' | 'knn' | 'linear' | 'online' | undefined;
        /**
         * Folder for an evaluation's results, predictions and lists (default: evaluation, in the run folder or beside
         * the student's file).
         */
        output?: string | undefined;
        /** Nearest labelled images that vote (knn). Allowed: a whole number from 1. Default: `200`. */
        neighbours?: number | undefined;
        /** Votes weigh exp(cosine / this) (knn). Allowed: a number from 1e-9 to 1e9. Default: `0.1`. */
        neighbourTemperature?: number | undefined;
        /**
         * Share of evaluate.train on which settings are chosen (linear). Allowed: a number above 0 and below 1.
         * Default: `0.1`.
         */
        heldOut?: number | undefined;
        /**
         * How linear classifiers are fitted: SGD over learning rates, L-BFGS over C, or both (linear). Default: `both`.
         */
        solver?: 'both' | 'sgd' | 'lbfgs' | undefined;
        /** Passes over the features with SGD (linear). Allowed: a whole number from 1. Default: `100`. */
        probeEpochs?: number | undefined;
        /**
         * Share of each class whose labels are used (semi; default: 0.01, then 0.1). Allowed: a number above 0 and up
         * to 1.
         */
        labelShare?: number | undefined;
        /** Passes over the labelled images (semi, finetune). Allowed: a whole number from 1. Default: `30`. */
        finetuneEpochs?: number | undefined;
        /**
         * Peak learning rate for 256 images a step (semi, finetune). Allowed: a number from 1e-9 to 1e9. Default:
         * `0.03`.
         */
        finetuneRate?: number | undefined;
        /** Images a batch (semi, finetune). Allowed: a whole number from 1 to 65535. Default: `64`. */
        finetuneBatch?: number | undefined;
      }
    | undefined;
  /** Segmentation and detection. */
  dense?:
    | {
        /**
         * Segmentation: folder of images and masks (pairs, Cityscapes, ADE20K or VOC layout). Detection: folder of
         * images.
         */
        data?: string | undefined;
        /** Detection: COCO JSON file of the boxes to train on. */
        annotations?: string | undefined;
        /** Folder to evaluate on (default: dense.data). */
        evaluationData?: string | undefined;
        /** Detection: COCO JSON file of the boxes to evaluate on. */
        evaluationAnnotations?: string | undefined;
        /** How images and masks lie in dense.data; auto looks. Default: `auto`. */
        layout?: 'auto' | 'pairs' | 'cityscapes' | 'ade20k' | 'voc' | undefined;
        /** Part of the data set to train on. Default: `train`. */
        split?: string | undefined;
        /** Part of the data set to evaluate on. Default: `val`. */
        evaluationSplit?: string | undefined;
        /**
         * Segmentation head: the light LR-ASPP with a finer map added, or a fully convolutional one. Default: `lraspp`.
         */
        head?: 'lraspp' | 'fcn' | undefined;
        /**
         * Image pixels a position of the student's last map; below 32 its last strides become dilations. Allowed: 8, 16
         * or 32. Default: `16`.
         */
        outputStride?: number | undefined;
        /** Side of the square input in pixels. Allowed: a multiple of 32 from 32 to 4096. Default: `512`. */
        resolution?: number | undefined;
        /** Images a step. Allowed: a whole number from 1 to 65535. Default: `16`. */
        batchSize?: number | undefined;
        /** Passes over the training images. Allowed: a whole number from 1. Default: `40`. */
        epochs?: number | undefined;
        /** Steps of the whole schedule, in the place of epochs. Allowed: a whole number from 1. */
        maxSteps?: number | undefined;
        /**
         * Peak learning rate of SGD; it rises over the first twentieth of the steps and falls by a power of 0.9.
         * Allowed: a number from 1e-9 to 1e9. Default: `0.02`.
         */
        learningRate?: number | undefined;
        /** Momentum of SGD. Allowed: a number from 0 to 0.999999. Default: `0.9`. */
        momentum?: number | undefined;
        /** Weight decay of SGD, not of norm scales and biases. Allowed: a number from 0 to 1. Default: `0.0001`. */
        weightDecay?: number | undefined;
        /**
         * Smallest random scale of a training image; at 1 its short side is as long as the input's. Allowed: a number
         * from 0.01 to 100. Default: `0.5`.
         */
        scaleMin?: number | undefined;
        /** Largest random scale of a training image. Allowed: a number from 0.01 to 100. Default: `2`. */
        scaleMax?: number | undefined;
        /** How often a training image is mirrored. Allowed: a number from 0 to 1. Default: `0.5`. */
        flipProbability?: number | undefined;
        /**
         * Segmentation: see the whole image at once, or windows of the input size along an image whose short side is
         * that long. Default: `whole`.
         */
        inference?: 'whole' | 'sliding' | undefined;
        /** Epochs between evaluations; 0 evaluates at the end only. Allowed: a whole number from 0. Default: `5`. */
        everyEpochs?: number | undefined;
      }
    | undefined;
  /** When checkpoints are written, and how many are kept. */
  checkpoint?:
    | {
        /** Epochs between checkpoints; 0 turns this off. Allowed: a whole number from 0. Default: `1`. */
        everyEpochs?: number | undefined;
        /** Steps between checkpoints; 0 turns this off. Allowed: a whole number from 0. Default: `0`. */
        everySteps?: number | undefined;
        /**
         * Minutes after which there is a checkpoint in any case, where an epoch takes longer; 0 turns this off.
         * Allowed: a number from 0. Default: `30`.
         */
        everyMinutes?: number | undefined;
        /**
         * How many of the latest checkpoints are kept, besides the best one. Allowed: a whole number from 1. Default:
         * `2`.
         */
        keep?: number | undefined;
      }
    | undefined;
  /** Lines of metrics. */
  log?:
    | {
        /** Steps between lines of metrics. Allowed: a whole number from 1. Default: `10`. */
        everySteps?: number | undefined;
        /**
         * Minutes that a step waits for its images, a teacher outside the device or the device, or that nothing moves
         * in an evaluation or before the first step, before the run says so; again when they have doubled; 0: never.
         * Allowed: a number from 0. Default: `5`.
         */
        stallMinutes?: number | undefined;
        /**
         * Size in MiB past which metrics.jsonl and log.txt go on in a new part; 0: never. Allowed: a number from 0.
         * Default: `64`.
         */
        maxFileSize?: number | undefined;
      }
    | undefined;
}
