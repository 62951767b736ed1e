/** Each file of examples/, run as its user would run it, on the small CLIP and a few drawings. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { cp, link } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { TextualSemanticsBank } from '../../lib/banks/textual.js';
import { openDevice } from '../../lib/device.js';
import { referenceEmbeddings } from '../../lib/export/compare.js';
import { readExportSource } from '../../lib/export/source.js';
import { exportStudent } from '../../lib/export/student.js';
import { loadStudent, readStudent } from '../../lib/runs/student-file.js';
import { CategoryList } from '../../lib/text/names.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { prepareRun, resumeConfig } from '../../lib/train/setup.js';
import { ensureBuilt } from '../cli/built.js';
import { bundleChild, root } from '../fixtures/child.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, shapeNames, tinyClip } from '../fixtures/tiny.js';

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
const names = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.ts'));
const bundles = new Map(
  await Promise.all(names.map(async (name) => [name, await bundleChild(`examples/${name}`)] as const)),
);
const common = ['--names', at('names.txt'), '--images', at('photos'), '--clip', tinyClip];

beforeAll(async () => {
  await ensureBuilt(); // examples import the package, as their users do
  writeFileSync(at('names.txt'), shapeNames.join('\n'));
  await drawShapes(at('photos'), { count: 6, telling: true });
});

function start(name: string, args: string[]): { child: ChildProcess; lines: string[]; ended: Promise<number> } {
  const child = spawn(process.execPath, [bundles.get(name)!, ...args], {
    cwd: folder,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, LGDISTILL_ADDON: addonPath() },
  });
  const lines: string[] = [];
  let rest = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (part: Buffer) => {
      const parts = (rest + part.toString()).split('\n');
      rest = parts.pop()!;
      lines.push(...parts);
    });
  }
  return { child, lines, ended: once(child, 'close').then(([code]) => code as number) };
}

async function run(name: string, args: string[]): Promise<string[]> {
  const { lines, ended } = start(name, args);
  expect([await ended, lines], lines.join('\n')).toEqual([0, lines]);
  return lines;
}

test('own-images.ts trains and exports a student', async () => {
  const lines = await run('own-images.ts', [
    ...common,
    '--student',
    'mobilenet_v3_small',
    '--epochs',
    '1',
    '--batch',
    '8',
    '--output',
    at('own'),
  ]);
  expect(lines.at(-1)).toBe(`written: ${at('own', 'student.safetensors')}, ${at('own', 'classifier.safetensors')}`);
  expect((await readStudent(at('own', 'student.safetensors'))).info).toMatchObject({
    architecture: 'mobilenet_v3_small',
    names: shapeNames,
    step: 3,
  });
});

test('tfjs-student.ts: the TensorFlow.js student learns', async () => {
  const lines = await run('tfjs-student.ts', [...common, '--side', '32', '--batch', '12', '--steps', '30']);
  const steps = lines
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as { step: number; loss: number; klTextual: number });
  expect(steps.map(({ step }) => step)).toEqual([1, 10, 20, 30]);
  const last = steps.slice(-3).reduce((sum, { klTextual }) => sum + klTextual / 3, 0); // batches of twelve differ
  expect(last).toBeLessThan(0.7 * steps[0]!.klTextual);
});

test('streaming.ts trains on a tar archive from standard input', async () => {
  await using encoder = await ClipTextEncoder.load(tinyClip);
  await (
    await TextualSemanticsBank.build(await CategoryList.load(shapeNames), { encoder, templates: 'none' })
  ).save(at('bank.safetensors'));
  const { child, lines, ended } = start('streaming.ts', [
    '--bank',
    at('bank.safetensors'),
    '--clip',
    tinyClip,
    '--epochs',
    '1',
    '--batch',
    '8',
    '--memory',
    '0',
    '--output',
    at('streaming'),
  ]);
  spawn('tar', ['c', 'photos'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] }).stdout.pipe(child.stdin!);
  expect(await ended, lines.join('\n')).toBe(0);
  expect(lines.some((line) => line === '24 images, 0 broken')).toBe(true);
  expect(lines.at(-1)).toMatch(/^done: 3 steps, /u);
});

test('server-evaluation.ts answers, and stops for a client that goes away', async () => {
  using device = await openDevice('cpu');
  const student = existsSync(at('own')) ? at('own') : undefined;
  expect(student, 'the student of own-images.ts').toBeDefined();
  expect((await loadStudent(student!, { device })).info.graph).toBeUndefined(); // a name tells it
  await cp(at('photos'), at('served'), { recursive: true });
  const { child, lines, ended } = start('server-evaluation.ts', [
    '--student',
    student!,
    '--data',
    at('served'),
    '--port',
    '0',
  ]);
  const line = async (pattern: RegExp) => {
    for (;;) {
      const found = lines.map((text) => pattern.exec(text)).find((match) => match !== null);
      if (found) return found;
      await Promise.race([once(child.stdout!, 'data'), ended.then(() => Promise.reject(new Error(lines.join('\n'))))]);
    }
  };
  try {
    const url = `http://127.0.0.1:${(await line(/^listening on port (\d+)$/u))[1]}/evaluation`;
    const score = (await (await fetch(url)).json()) as { top1: number; images: number };
    expect(score.images).toBe(24);
    lines.length = 0;
    for (const name of shapeNames) {
      // many more, so that the evaluation is still at work when its client goes
      for (let copy = 0; copy < 500; copy++)
        await link(at('served', name, '0.png'), at('served', name, `copy-${copy}.png`));
    }
    const client = new AbortController();
    const answer = fetch(url, { signal: client.signal });
    await line(/^evaluation images/u); // it is at work
    client.abort();
    await expect(answer).rejects.toMatchObject({ name: 'AbortError' });
    await line(/^no evaluation: ABORTED$/u);
  } finally {
    child.kill('SIGTERM');
  }
  await ended;
});

test('two-students.ts trains both from one teacher', async () => {
  const lines = await run('two-students.ts', [...common, '--epochs', '1', '--batch', '8', '--output', at('two')]);
  for (const name of ['mobilenet_v3_small', 'resnet18']) {
    expect(lines.filter((line) => line.startsWith(name)).length).toBeGreaterThan(0);
    expect((await readStudent(at('two', name))).info).toMatchObject({ architecture: name, step: 3 });
  }
});

test('own-loop.ts goes on from its checkpoint as if it had not been stopped, and names images', async () => {
  const args = [...common, '--student', 'mobilenet_v3_small', '--epochs', '3', '--batch', '8', '--checkpoint'];
  const whole = await run('own-loop.ts', [...args, at('whole.checkpoint')]);
  await run('own-loop.ts', [...args, at('parted.checkpoint'), '--steps', '6']);
  const rest = await run('own-loop.ts', [...args, at('parted.checkpoint')]);
  expect(rest[0]).toBe('going on from step 6');
  expect(rest.slice(1)).toEqual(whole.slice(2));
  expect(whole.slice(0, 3).map((line) => line.split(':')[0])).toEqual(['step 3', 'step 6', 'step 9']);
  expect(whole.slice(3)).toHaveLength(8);
  for (const line of whole.slice(3)) expect(shapeNames, line).toContain(line.split(': ')[1]);
});

test('own-student.ts trains a network that the package does not know, and reads it back', async () => {
  const lines = await run('own-student.ts', [
    ...common,
    '--epochs',
    '2',
    '--batch',
    '8',
    '--output',
    at('own-student'),
  ]);
  expect(lines[0]).toBe('mobilenet_v1_025: 344656 parameters');
  const losses = lines.slice(1, -1).map((line) => Number(/^step \d+: loss ([\d.]+)$/u.exec(line)?.[1]));
  expect(losses.length).toBeGreaterThan(1);
  expect(losses.every(Number.isFinite), lines.join('\n')).toBe(true);
  expect(shapeNames, lines.at(-1)).toContain(lines.at(-1)!.split(': ')[1]);
  using device = await openDevice('cpu');
  const { student, info } = await loadStudent(at('own-student'), { device });
  expect([student.name, info.graph]).toEqual(['mobilenet_v1_025', student.graph]);
  const { file } = await exportStudent({ from: at('own-student'), to: at('own.onnx'), format: 'onnx' });
  expect(file).toBe(at('own.onnx'));
  await using resumed = await prepareRun(
    await resumeConfig(at('own-student'), { 'data.train': at('photos'), teacher: tinyClip }),
    { resume: 'last' },
  );
  expect(resumed.student.graph).toEqual(student.graph);
});

test('own-teacher.ts: the student learns from it', async () => {
  const lines = await run('own-teacher.ts', [
    '--images',
    at('photos'),
    '--epochs',
    '12',
    '--batch',
    '8',
    '--rate',
    '1',
    '--output',
    at('taught'),
  ]);
  const losses = lines.map((line) => Number(/^step \d+: 1 - cosine ([\d.]+)$/u.exec(line)?.[1]));
  expect(losses).toHaveLength(36);
  const mean = (some: number[]) => some.reduce((sum, loss) => sum + loss / some.length, 0);
  expect(mean(losses.slice(-6))).toBeLessThan(mean(losses.slice(0, 6)) - 0.05);
});

test('zero-shot-transformers.ts names photos as the engine does', async () => {
  const to = at('student-transformers');
  await exportStudent({ from: at('own'), to, format: 'transformers' });
  const source = await readExportSource(at('own'));
  await drawShapes(at('four'), { count: 1, seed: 5 });
  const { embeddings, count } = await referenceEmbeddings(source, at('four'), undefined);
  const [size, bank] = [source.info.embeddingSize, source.bank!];
  const expected = [...shapeNames].sort().map((name, i) => {
    const row = embeddings.subarray(i * size, (i + 1) * size);
    const cosines = bank.names.map(
      (_, k) => row.reduce((sum, value, d) => sum + value * bank.data[k * size + d]!, 0) / Math.hypot(...row),
    );
    return {
      file: at('four', name, '0.png'),
      name: bank.names[cosines.indexOf(Math.max(...cosines))]!,
      cosine: Math.max(...cosines),
    };
  });
  expect(count).toBe(4);
  const found = (await run('zero-shot-transformers.ts', [to, ...expected.map(({ file }) => file)])).map((line) =>
    /^(.*): (.*) (-?[\d.]+)$/u.exec(line)!,
  );
  expect(found.map(([, file, name]) => ({ file, name }))).toEqual(expected.map(({ file, name }) => ({ file, name })));
  found.forEach(([, , , cosine], i) => expect(Number(cosine)).toBeCloseTo(expected[i]!.cosine, 3));
});

test('every example is run here', () => {
  expect(names).toEqual([
    'own-images.ts',
    'own-loop.ts',
    'own-student.ts',
    'own-teacher.ts',
    'server-evaluation.ts',
    'streaming.ts',
    'tfjs-student.ts',
    'two-students.ts',
    'zero-shot-transformers.ts',
  ]);
});
