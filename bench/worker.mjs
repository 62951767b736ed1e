// One implementation, in a process of its own: measures what run.mjs asks for and sends a row for each.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bounds, checkResult, keepReference, relativeError } from './check.mjs';
import { encoderSpec } from './encoder.mjs';
import { Absent, implementations, multiplyAdds } from './implementations/index.mjs';
import { makeInput } from './inputs.mjs';
import { measure } from './measure.mjs';

const send = (message) => new Promise((resolve) => process.send(message, resolve));
const directions = { bankLoss: 'forward+backward', bankUpdate: 'update', encoder: 'forward+backward+sgd' };

/** @param {{ name: string, ops: string[], sizes: object[], seconds: number, cap: number, folder: string }} order */
async function work({ name, ops, sizes, seconds, cap, folder }) {
  const { module, options = {}, kind, title } = implementations.find((implementation) => implementation.name === name);
  const label = { implementation: name, title, kind };
  let opened;
  try {
    opened = await (await import(module.replace('./', './implementations/'))).open(options);
  } catch (error) {
    if (!(error instanceof Absent)) throw error;
    return await send({ ...label, notRun: error.message });
  }
  const boundOf = kind === 'ours' || kind === 'reference' ? bounds.ours : bounds.others;
  const about = () => ({ ...label, detail: opened.detail, threads: opened.threads, versions: opened.versions });
  for (const op of ops.filter((each) => each !== 'encoder')) {
    let last;
    for (const size of sizes) {
      const row = { ...about(), op, direction: directions[op], ...size };
      const estimate = last && (last.p50 * multiplyAdds[op](size)) / multiplyAdds[op](last.size) / 1000;
      if (estimate > cap && kind !== 'reference') {
        await send({
          ...row,
          notRun: `estimated ${estimate.toPrecision(2)} s, from ${sizeName(last.size)} by multiply-adds`,
        });
        continue;
      }
      try {
        const { timing, checked } = await measureCall(opened, op, size, { seconds, folder, kind, bound: boundOf });
        last = { ...timing, size };
        await send({ ...row, ...about(), ...timing, checked });
      } catch (error) {
        if (!/\bOOM\b|out of memory/i.test(error.message)) throw error;
        await send({ ...row, notRun: `out of its memory: ${error.message.split('\n')[0]}` });
      }
    }
  }
  if (ops.includes('encoder') && opened.trainEncoder)
    await send({
      ...about(),
      op: 'encoder',
      direction: directions.encoder,
      ...(await measureEncoder(opened, name, { seconds, folder })),
    });
  await opened.close();
}

const sizeName = ({ B, D, K }) => `${B}x${D}x${K}`;

async function measureCall(opened, op, size, { seconds, folder, kind, bound }) {
  const call = await opened[op](makeInput(size));
  try {
    const timing = call.measure ? await call.measure(seconds) : await measure(call.run, seconds);
    if (call.result === undefined) return { timing, checked: undefined };
    const result = await call.result();
    if (kind !== 'reference') return { timing, checked: checkResult(folder, op, size, result, bound) };
    keepReference(folder, op, size, result);
    return { timing, checked: undefined };
  } finally {
    await call.dispose();
  }
}

/** Losses of the first steps must agree with those of 'native', which runs first; only then is the clock started. */
async function measureEncoder(opened, name, { seconds, folder }) {
  const { model, widthMultiplier, resolution, batch, checkedSteps } = encoderSpec;
  const shape = { model, widthMultiplier, resolution, batch };
  const kept = join(folder, 'encoder-losses.json');
  let training;
  try {
    training = await opened.trainEncoder(encoderSpec);
    const losses = [];
    for (let step = 0; step < checkedSteps; step++) losses.push(await training.run());
    if (name === 'native') writeFileSync(kept, JSON.stringify(losses));
    const error = relativeError(losses, JSON.parse(readFileSync(kept, 'utf8')));
    const checked =
      name === 'native'
        ? undefined
        : {
            against: 'native',
            error: Number(error.toPrecision(3)),
            bound: bounds.encoder,
            ok: error <= bounds.encoder,
          };
    const timing = await measure(training.run, seconds);
    return {
      ...shape,
      losses,
      ...timing,
      imagesPerSecond: Number(((1000 * shape.batch) / timing.p50).toPrecision(4)),
      checked,
    };
  } catch (error) {
    if (!/not registered for backend/.test(error.message)) throw error;
    return { ...shape, notRun: error.message.split('\n')[0] };
  } finally {
    training?.dispose();
  }
}

process.once('message', async (order) => {
  try {
    await work(order);
    await send({ done: true });
  } catch (error) {
    await send({ failed: error.stack });
  }
  process.exit(0); // WebAssembly threads would keep the process
});
