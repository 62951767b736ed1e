// Training steps of a small encoder: what is trained, how the steps are checked against each other, and ours.
import { createEncoder } from '../dist/index.js';
import { randomNumbers } from './inputs.mjs';

/**
 * MobileNetV2 x 0.35 at 64 px: the smallest student that somebody would train, and what tfjs trains in seconds a step.
 * The learning rate is small and two
 *  losses are compared, one before and one after a step: from a random start, rounding alone takes later losses apart
 *    (ReLU6 has kinks).
 */
export const encoderSpec = {
  model: 'mobilenet_v2',
  widthMultiplier: 0.35,
  resolution: 64,
  batch: 8,
  outputs: 64,
  learningRate: 1e-5,
  momentum: 0.9,
  checkedSteps: 2,
};

/** Images [B,3,R,R] and targets [B, outputs]; the loss of a step is the mean over images of |output - target|^2 / 2. */
export function encoderData({ batch, resolution, outputs }) {
  const draw = randomNumbers(17);
  const noise = (length) => Float32Array.from({ length }, () => 2 * draw() - 1);
  return { images: noise(batch * 3 * resolution ** 2), targets: noise(batch * outputs) };
}

/** The encoder with the start weights that every implementation takes. */
export async function startEncoder(device, { model, widthMultiplier, resolution, batch, outputs }) {
  return await createEncoder(model, {
    device,
    widthMultiplier,
    resolution,
    batch,
    outputs,
    seed: 1,
    optimizer: { name: 'sgd', momentum },
  });
}

/**
 * @returns {Promise<{ run: () => Promise<number>, dispose(): void }>} `run` takes one step and resolves with its loss
 */
export async function trainOurs(device, spec) {
  const { addon, handle } = device;
  const { images, targets } = encoderData(spec);
  const encoder = await startEncoder(device, spec);
  const { compiled } = encoder;
  const imageTensor = compiled.makeImages();
  addon.writeImages(imageTensor, images);
  const dOutput = addon.makeTensor(handle, [spec.batch, spec.outputs]);
  const difference = new Float32Array(targets.length);
  return {
    async run() {
      compiled.zeroGradients();
      compiled.forwardTensor(imageTensor, { training: true });
      const output = await addon.readTensor(compiled.output);
      let loss = 0;
      for (let i = 0; i < output.length; i++) {
        difference[i] = (output[i] - targets[i]) / spec.batch;
        loss += (output[i] - targets[i]) ** 2 / (2 * spec.batch);
      }
      addon.writeTensor(dOutput, difference);
      compiled.backwardTensor(dOutput);
      compiled.optimizerStep({ learningRate: spec.learningRate });
      await device.synchronize();
      return loss;
    },
    dispose() {
      for (const tensor of [imageTensor, dOutput]) addon.release(tensor);
      encoder.dispose();
    },
  };
}
