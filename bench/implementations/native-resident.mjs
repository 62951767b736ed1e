// The same kernels as a training step calls them: banks and embeddings stay on the device between calls. Embeddings are
// written and the gradient is read in each call here, as the other implementations do; in training the encoders produce
// and consume them in place.
import { describeDevice, openOrAbsent } from './native.mjs';

export async function open({ device: name, threads }) {
  const device = await openOrAbsent(name, threads);
  return {
    ...describeDevice(device),
    bankLoss: (input) => prepareLoss(device, input),
    bankUpdate: (input) => prepareUpdate(device, input),
    close: () => device.dispose(),
  };
}

function makeHead({ addon, handle }, input) {
  const { dimension, textual, visual, seen, alpha, studentTemperature, teacherTemperature, momentum } = input;
  const head = addon.makeSemanticHead(handle, {
    dimension,
    categories: textual.length / dimension,
    alpha,
    studentTemperature,
    teacherTemperature,
    momentum,
  });
  addon.writeSemanticState(head, { textual, visual, seen });
  return head;
}

function prepareLoss(device, input) {
  const { addon, handle } = device;
  const head = makeHead(device, input);
  const [student, teacher, dStudent] = [0, 1, 2].map(() =>
    addon.makeTensor(handle, [input.student.length / input.dimension, input.dimension]),
  );
  let result;
  return {
    async run() {
      addon.writeTensor(student, input.student);
      addon.writeTensor(teacher, input.teacher);
      addon.headLoss(head, student, teacher, dStudent, 1, 0);
      const [metrics, gradient] = await Promise.all([addon.readMetrics(handle, head, 0), addon.readTensor(dStudent)]);
      result = { losses: Float64Array.of(metrics.loss, metrics.lossVisual, metrics.lossTextual), gradient };
    },
    result: () => result,
    dispose: () => [head, student, teacher, dStudent].forEach((object) => addon.release(object)),
  };
}

function prepareUpdate(device, input) {
  const { addon, handle } = device;
  const head = makeHead(device, input);
  const teacher = addon.makeTensor(handle, [input.teacher.length / input.dimension, input.dimension]);
  return {
    async run() {
      addon.writeTensor(teacher, input.teacher);
      addon.headUpdate(head, [teacher], 0);
      await device.synchronize();
    },
    // One update of the banks as they were given: the timed calls have moved them on.
    async result() {
      addon.writeSemanticState(head, { visual: input.visual, seen: input.seen });
      addon.headUpdate(head, [teacher], 0);
      const { visual } = await addon.readSemanticState(handle, head);
      return { visual };
    },
    dispose: () => [head, teacher].forEach((object) => addon.release(object)),
  };
}
