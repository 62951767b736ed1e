import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { beforeAll, expect, test } from 'vitest';
import { addonPath } from '../../lib/addon/addon.js';
import { readSafetensors } from '../../lib/files/safetensors.js';
import { ensureBuilt } from '../cli/built.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { holdAt } from '../fixtures/hold.js';
import { testsAll } from '../shared.js';

interface Summary {
  preset: string;
  teacherTop1: number;
  studentTop1: number;
  teacherTop5: number;
  studentTop5: number;
  seconds: number;
  imagesPerSecond: number;
  classes: number;
  images: number;
}

const folder = temporaryFolder();
const at = (...parts: string[]) => join(folder, ...parts);
let root: string;
beforeAll(async () => {
  root = await ensureBuilt();
});

/** Runs the demo, or another script, as a process of its own; stops it once it prints `stopAt`. */
function run(
  script: string,
  args: string[],
  { stopAt, env = {} }: { stopAt?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<{ code: number | null; text: string }> {
  const hold = stopAt === undefined ? undefined : holdAt(stopAt, folder);
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env, ...hold?.env },
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (text += part.toString()));
  // what comes right after is the same stop, as npm passes on what the terminal has sent
  hold?.watch(child, () => (['SIGINT', 'SIGTERM'] as const).forEach((signal) => child.kill(signal)));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, text })));
}
const demo = (args: string[], options?: Parameters<typeof run>[2]) =>
  run(join(root, 'scripts', 'demo.mjs'), ['--device', 'cpu', ...args], options);
const summaryOf = (...parts: string[]) => JSON.parse(readFileSync(at(...parts, 'summary.json'), 'utf8')) as Summary;

test('the emoji are those the teacher is known by', async () => {
  const { listEmoji } = (await import(join(root, 'scripts', 'demo', 'emoji.mjs'))) as {
    listEmoji: () => { label: string; subgroup: string; drawings: Record<string, object> }[];
  };
  const emoji = listEmoji();
  expect(emoji).toHaveLength(1394);
  expect(new Set(emoji.map(({ label }) => label)).size).toBe(1394);
  expect(new Set(emoji.map(({ subgroup }) => subgroup)).size).toBe(94);
  const drawings = emoji.flatMap((one) => Object.keys(one.drawings));
  expect(drawings.filter((vendor) => vendor !== 'fluent-emoji-flat')).toHaveLength(4920);
  expect(drawings.filter((vendor) => vendor === 'fluent-emoji-flat')).toHaveLength(1394);
});

test('a short run trains, judges both models on the vendor neither has seen, and sums up', async () => {
  const { code, text } = await demo(['--short', '--output', at('whole')]);
  expect(text).toMatch(/^teacher, tiny CLIP +\d+\.\d %/mu);
  expect(text).toMatch(/^student, mobilenet_v\w+( x [\d.]+)? +\d+\.\d %/mu);
  expect(code).toBe(0);
  const summary = summaryOf('whole');
  expect(summary).toMatchObject({ preset: 'short', classes: 85, images: 294 });
  expect(summary.teacherTop1).toBeGreaterThan(0.7); // it has never seen these drawings, and knows most
  expect(summary.teacherTop1).toBeLessThan(0.85);
  expect(summary.studentTop1).toBeLessThan(summary.teacherTop1); // seconds of training
  expect(summary.studentTop5).toBeGreaterThanOrEqual(summary.studentTop1);
  expect(summary.seconds).toBeGreaterThan(0);
  expect(summary.imagesPerSecond).toBeGreaterThan(0);
});

const interrupted = testsAll('a demo that is interrupted and goes on') ? test : test.skip;
interrupted('an interrupted run goes on where it stopped and ends with the same numbers', async () => {
  const interrupted = await demo(['--short', '--output', at('broken')], { stopAt: 'training: steps' });
  expect(interrupted.code).toBe(130);
  expect(interrupted.text).toMatch(/stopped after step \d+; the same command continues/u);
  const again = await demo(['--short', '--output', at('broken')]);
  expect(again.text).toContain('continuing the interrupted run');
  expect(again.code).toBe(0);
  const [whole, broken] = [summaryOf('whole'), summaryOf('broken')];
  for (const key of ['studentTop1', 'studentTop5', 'teacherTop1', 'teacherTop5'] as const)
    expect(broken[key], key).toBe(whole[key]);
  const weights = (name: string) => readFileSync(at(name, 'short', 'checkpoints', 'last', 'model.safetensors'));
  expect(weights('broken').equals(weights('whole'))).toBe(true);
});

test('a packed file runs where there are no packages at all', async () => {
  const packed = at('packed.safetensors');
  expect(await demo(['--short', '--output', at('whole'), '--prepare', packed])).toMatchObject({ code: 0 });
  expect(statSync(packed).size).toBeLessThan(2e6);

  // A folder with the bundled script, the addon and the teacher, and nothing else that node could import.
  const bare = at('bare');
  mkdirSync(join(bare, 'test', 'models'), { recursive: true });
  cpSync(join(root, 'package.json'), join(bare, 'package.json'));
  symlinkSync(join(root, 'test', 'models', 'tiny-clip'), join(bare, 'test', 'models', 'tiny-clip'));
  await build({
    entryPoints: [join(root, 'scripts', 'demo.mjs')],
    outfile: join(bare, 'scripts', 'demo.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
    external: ['sharp', '@xenova/transformers', 'onnxruntime-node'],
  });
  const { code, text } = await run(
    join(bare, 'scripts', 'demo.mjs'),
    ['--device', 'cpu', '--short', '--prepared', packed, '--output', at('bare', 'runs')],
    { env: { LGDISTILL_ADDON: addonPath(), NODE_PATH: '' } },
  );
  expect([code, text.match(/^error[^]*/mu)?.[0]]).toEqual([0, undefined]);
  const [whole, unpacked] = [summaryOf('whole'), summaryOf('bare', 'runs')];
  expect(unpacked).toMatchObject({
    classes: whole.classes,
    images: whole.images,
    teacherTop1: whole.teacherTop1,
    teacherTop5: whole.teacherTop5,
  });
});

test('the packed drawings are the drawn ones, to the bit', async () => {
  const { inflateRawSync } = await import('node:zlib');
  const { default: sharp } = await import('sharp');
  const stored = at('stored.safetensors');
  expect(await demo(['--short', '--output', at('whole'), '--prepare', stored, '--stored'])).toMatchObject({ code: 0 });
  for (const file of [at('packed.safetensors'), stored]) {
    const { tensors, metadata } = await readSafetensors(file);
    const { train } = JSON.parse(metadata['sources']!) as { train: { ids: string[]; drawings: number[] } };
    for (const index of [0, 100, 293]) {
      const packed = tensors.get(`drawing.${train.drawings[index]}`)!.data as Uint8Array;
      const drawn = await sharp(at('whole', 'images', 'activities-80', 'train', train.ids[index]!))
        .raw()
        .toBuffer();
      expect(inflateRawSync(packed).equals(drawn), train.ids[index]).toBe(true);
      // for what compresses all of it: the bytes as they are
      expect(Buffer.from(packed).includes(drawn), train.ids[index]).toBe(file === stored);
    }
  }
});

test('wrong usage exits with 2 and says what there is', async () => {
  for (const args of [['--ful'], ['--full', '--short'], ['--threads', 'many']]) {
    const { code, text } = await demo(args);
    expect(code).toBe(2);
    expect(text).toContain('npm run demo -- [options]');
  }
});
