import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { resolveModel, type ResolveOptions } from '../../lib/hub/hub.js';
import { sideFiles, weightFiles, weightFilesOf } from '../../lib/models/teachers/weight-files.js';
import { ClipTextEncoder } from '../../lib/text/onnx-encoder.js';
import { asUser, temporaryFolder } from '../fixtures/folder.js';
import { losableDisk } from '../fixtures/lost-disk.js';
import { tinyClip } from '../fixtures/tiny.js';

vi.mock('node:os', { spy: true });

const commit = 'a'.repeat(40);
const wanted = {
  required: [['onnx/absent.onnx', 'onnx/text_model.onnx'], 'config.json'],
  optional: ['preprocessor_config.json', 'readme.md'],
};
const folder = temporaryFolder();
let server: Server;
let requests: string[] = [];
let behave: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
let count = 0;
let cacheDir = '';

/** A hub with one model, org/tiny: tests never reach the network. */
beforeAll(async () => {
  server = createServer((request, response) => {
    requests.push(request.url!);
    if (behave?.(request, response)) return;
    const file = /^\/org\/tiny\/resolve\/a+\/(.+)$/u.exec(request.url!)?.[1];
    if (request.url === '/api/models/org/tiny/revision/main') {
      const siblings = [
        'config.json',
        'tokenizer.json',
        'tokenizer_config.json',
        'preprocessor_config.json',
        'onnx/text_model.onnx',
      ].map((rfilename) => ({ rfilename }));
      response.end(JSON.stringify({ sha: commit, siblings }));
    } else if (file !== undefined && existsSync(join(tinyClip, file))) {
      response.end(readFileSync(join(tinyClip, file)));
    } else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  requests = [];
  behave = undefined;
  cacheDir = join(folder, `cache${count++}`);
  vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  for (const name of [
    'HF_HUB_OFFLINE',
    'TRANSFORMERS_OFFLINE',
    'HF_HOME',
    'HF_HUB_CACHE',
    'HF_TOKEN',
    'HTTPS_PROXY',
    'https_proxy',
    'NODE_USE_ENV_PROXY',
  ])
    vi.stubEnv(name, '');
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
});

test('downloads a model once, into the layout of the hub cache', async () => {
  const model = await resolveModel('org/tiny', wanted, { cacheDir });
  const snapshot = join(cacheDir, 'models--org--tiny', 'snapshots', commit);
  expect(model).toEqual({
    id: 'org/tiny',
    folder: snapshot,
    files: [join(snapshot, 'onnx/text_model.onnx'), join(snapshot, 'config.json')],
  });
  expect(readFileSync(join(snapshot, 'config.json'))).toEqual(readFileSync(join(tinyClip, 'config.json')));
  expect(existsSync(join(snapshot, 'preprocessor_config.json'))).toBe(true);
  expect(readFileSync(join(cacheDir, 'models--org--tiny/refs/main'), 'utf8')).toBe(commit);
  expect(readdirSync(snapshot).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  requests = [];
  expect(await resolveModel('org/tiny', wanted, { cacheDir })).toEqual(model);
  expect(await resolveModel('org/tiny', wanted, { cacheDir, localFilesOnly: true })).toEqual(model);
  expect(requests).toEqual([]);
});

test('what a killed download left is removed by the next, what another one writes is not', async () => {
  const snapshot = join(cacheDir, 'models--org--tiny', 'snapshots', commit);
  mkdirSync(snapshot, { recursive: true });
  const [left, written] = ['.config.json.00112233aabb.tmp', '.config.json.44556677ccdd.tmp'];
  for (const name of [left, written]) writeFileSync(join(snapshot, name), 'half');
  utimesSync(join(snapshot, left), new Date(), new Date(Date.now() - 7_200_000));
  await resolveModel('org/tiny', wanted, { cacheDir });
  expect(readdirSync(snapshot).filter((name) => name.endsWith('.tmp'))).toEqual([written]);
});

test('a text encoder loads from the hub, with progress', async () => {
  const arrived = new Map<string, number>();
  const encoder = await ClipTextEncoder.load('org/tiny', {
    cacheDir,
    onProgress: ({ file, received, total }) => arrived.set(file, received / total!),
  });
  expect(encoder.id).toBe('org/tiny');
  expect([...arrived.values()]).toEqual([1, 1, 1, 1]);
  const local = await ClipTextEncoder.load(tinyClip);
  expect(await encoder.encode(['a cat'])).toEqual(await local.encode(['a cat']));
});

test('HF_HOME and HF_HUB_CACHE say where, and the layout of transformers.js is read too', async () => {
  vi.stubEnv('HF_HOME', join(folder, 'home'));
  expect((await resolveModel('org/tiny', wanted)).folder).toBe(
    join(folder, 'home/hub/models--org--tiny/snapshots', commit),
  );
  vi.stubEnv('HF_HUB_CACHE', join(folder, 'own'));
  const there = join(folder, 'own/org/tiny');
  mkdirSync(join(there, 'onnx'), { recursive: true });
  writeFileSync(join(there, 'onnx/text_model.onnx'), '');
  writeFileSync(join(there, 'config.json'), '');
  expect((await resolveModel('org/tiny', wanted)).folder).toBe(there);
});

test('a user without a home is asked for a folder, whether or not there is such a user', async () => {
  for (const name of ['XDG_CACHE_HOME', 'HOME']) vi.stubEnv(name, '');
  const refusal = { code: 'NOT_WRITABLE', mend: expect.stringContaining('HF_HOME') as string };
  await expect(resolveModel('org/tiny', wanted)).rejects.toMatchObject(refusal);
  vi.mocked(homedir).mockImplementationOnce(() => {
    throw new Error('uv_os_homedir returned ENOENT');
  });
  await expect(resolveModel('org/tiny', wanted)).rejects.toMatchObject(refusal);
  expect(requests).toEqual([]);
});

test.each([['HF_HUB_OFFLINE'], ['TRANSFORMERS_OFFLINE']])('%s turns downloads off', async (name) => {
  vi.stubEnv(name, '1');
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('HF_HUB_OFFLINE') as string,
  });
  expect(requests).toEqual([]);
});

test('localFilesOnly turns downloads off', async () => {
  await expect(ClipTextEncoder.load('org/tiny', { cacheDir, localFilesOnly: true })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('onnx/text_model.onnx') as string,
  });
  expect(requests).toEqual([]);
});

test('says what is wrong: unknown id, missing files, refused access, a name that is no id', async () => {
  await expect(resolveModel('org/other', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('spelling') as string,
  });
  await expect(resolveModel('org/tiny', { required: ['onnx/vision_model.onnx'] }, { cacheDir })).rejects.toMatchObject({
    code: 'BAD_MODEL',
  });
  await expect(resolveModel('tiny', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    found: 'tiny',
  });
  behave = (_, response) => {
    response.writeHead(403).end();
    return true;
  };
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('HF_TOKEN') as string,
  });
});

test('a folder that may not be read is told of', async () => {
  const path = join(folder, 'secret-model');
  mkdirSync(path);
  chmodSync(path, 0o700);
  chmodSync(folder, 0o755);
  await asUser(() =>
    expect(resolveModel(path, wanted)).rejects.toMatchObject({
      code: 'BAD_FILE',
      message: expect.stringContaining(`cannot read ${path}`) as string,
    }),
  );
});

test('says what to do where weights are a pickle', async () => {
  behave = (request, response) => {
    response.end(JSON.stringify({ sha: commit, siblings: [{ rfilename: 'pytorch_model.bin' }] }));
    return true;
  };
  const weights = { required: [['open_clip_model.safetensors', 'model.safetensors']] };
  const wrong = { code: 'BAD_MODEL', mend: expect.stringContaining('pytorch_model.bin is a pickle') as string };
  await expect(resolveModel('org/pickle', weights, { cacheDir })).rejects.toMatchObject(wrong);
  const path = join(folder, 'pickle');
  mkdirSync(path);
  writeFileSync(join(path, 'pytorch_model.bin'), '');
  await expect(resolveModel(path, weights)).rejects.toMatchObject(wrong);
  await expect(resolveModel(join(path, 'pytorch_model.bin'), weights)).rejects.toMatchObject({
    ...wrong,
    mend: expect.stringContaining('is a pickle') as string,
  });
  writeFileSync(join(path, 'config.json'), '{}');
  await expect(resolveModel(join(path, 'config.json'), weights)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    mend: `Give the folder that it is in: ${path}`,
  });
});

test("fetches the configuration of weights that open_clip left alone in the hub's cache", async () => {
  const snapshot = join(cacheDir, 'models--org--alone', 'snapshots', commit);
  mkdirSync(snapshot, { recursive: true });
  writeFileSync(join(snapshot, 'open_clip_model.safetensors'), '');
  const load = async (options: ResolveOptions) =>
    weightFilesOf(
      'org/alone',
      await resolveModel('org/alone', { required: [[...weightFiles]], optional: sideFiles }, options),
      options,
    );
  await expect(load({ cacheDir, localFilesOnly: true })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringContaining('lacks open_clip_config.json') as string,
  });
  behave = (request, response) => {
    const isFile = request.url!.endsWith('open_clip_config.json');
    response.end(
      isFile
        ? '{}'
        : JSON.stringify({
            sha: commit,
            siblings: [{ rfilename: 'open_clip_model.safetensors' }, { rfilename: 'open_clip_config.json' }],
          }),
    );
    return true;
  };
  expect(await load({ cacheDir })).toEqual({
    folder: snapshot,
    files: [join(snapshot, 'open_clip_model.safetensors')],
  });
  expect(readFileSync(join(snapshot, 'open_clip_config.json'), 'utf8')).toBe('{}');
  expect(requests.filter((url) => url.includes('resolve'))).toEqual([
    `/org/alone/resolve/${commit}/open_clip_config.json`,
  ]);
});

test('takes all shards and the configuration from one revision', async () => {
  const snapshot = (revision: string) => join(cacheDir, 'models--org--tiny', 'snapshots', revision);
  const shards = ['a.safetensors', 'b.safetensors'];
  const weights = 'model.safetensors.index.json';
  for (const [revision, files] of [
    [commit, [weights, 'config.json', shards[0]!]],
    ['b'.repeat(40), [weights, 'config.json', ...shards]],
  ] as const) {
    mkdirSync(snapshot(revision), { recursive: true });
    for (const file of files)
      writeFileSync(
        join(snapshot(revision), file),
        file === weights ? JSON.stringify({ weight_map: { x: shards[0], y: shards[1] } }) : '{}',
      );
  }
  mkdirSync(join(cacheDir, 'models--org--tiny', 'refs'));
  writeFileSync(join(cacheDir, 'models--org--tiny', 'refs', 'main'), commit);
  const options = { cacheDir, localFilesOnly: true };
  const found = await weightFilesOf(
    'org/tiny',
    await resolveModel('org/tiny', { required: [[...weightFiles]], optional: sideFiles }, options),
    options,
  );
  expect(found).toEqual({
    folder: snapshot('b'.repeat(40)),
    files: shards.map((file) => join(snapshot('b'.repeat(40)), file)),
  });
});

test('takes a link that leads nowhere for a file that is to be fetched, and says so', async () => {
  const snapshot = join(cacheDir, 'models--org--tiny', 'snapshots', commit);
  mkdirSync(join(snapshot, 'onnx'), { recursive: true });
  for (const file of ['onnx/text_model.onnx', 'config.json']) writeFileSync(join(snapshot, file), '{}');
  symlinkSync('../../blobs/removed', join(snapshot, 'preprocessor_config.json'));
  const said = 'preprocessor_config.json (a link that leads nowhere)';
  await expect(resolveModel(snapshot, wanted)).rejects.toMatchObject({
    code: 'BAD_MODEL',
    message: expect.stringContaining(said) as string,
  });
  await expect(resolveModel('org/tiny', wanted, { cacheDir, localFilesOnly: true })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringContaining(said) as string,
  });
  expect(await resolveModel('org/tiny', wanted, { cacheDir })).toMatchObject({ folder: snapshot });
  expect(readFileSync(join(snapshot, 'preprocessor_config.json'))).toEqual(
    readFileSync(join(tinyClip, 'preprocessor_config.json')),
  );
});

test('no network is an error in seconds', async () => {
  vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
  const start = performance.now();
  await expect(ClipTextEncoder.load('org/tiny', { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('network') as string,
  });
  expect(performance.now() - start).toBeLessThan(10_000);
});

test('no way to the hub past a proxy that Node takes no notice of says how', async () => {
  vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
  vi.stubEnv('https_proxy', 'http://proxy:3128');
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    mend: expect.stringContaining('Set NODE_USE_ENV_PROXY=1') as string,
  });
  vi.stubEnv('NODE_USE_ENV_PROXY', '1');
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({
    mend: expect.stringContaining('HF_ENDPOINT') as string,
  });
});

test('a server that does not answer is given up', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const asked = new Promise<void>((resolve) => {
    behave = () => {
      resolve();
      return true;
    };
  });
  const ended = vi.fn();
  const resolved = resolveModel('org/tiny', wanted, { cacheDir }).finally(ended);
  const givenUp = expect(resolved).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
    message: expect.stringContaining('in time') as string,
  });
  await asked;
  await vi.advanceTimersByTimeAsync(5000);
  expect(ended).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(10_000);
  await givenUp;
});

test('a download cut short leaves nothing that looks whole', async () => {
  behave = (request, response) => {
    if (!request.url!.endsWith('text_model.onnx')) return false;
    response.writeHead(200, { 'content-length': 1000 });
    response.write('abc');
    setTimeout(() => response.destroy(), 20);
    return true;
  };
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  expect(readdirSync(join(cacheDir, 'models--org--tiny/snapshots', commit, 'onnx'))).toEqual([]);
  behave = undefined;
  expect((await resolveModel('org/tiny', wanted, { cacheDir })).files.length).toBe(2);
});

test('stops when told to, in the middle of a file', async () => {
  const controller = new AbortController();
  behave = (request, response) => {
    if (!request.url!.endsWith('text_model.onnx')) return false;
    response.writeHead(200, { 'content-length': 1000 });
    response.write('abc');
    setTimeout(() => controller.abort(), 20);
    return true;
  };
  await expect(resolveModel('org/tiny', wanted, { cacheDir, signal: controller.signal })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  expect(readdirSync(join(cacheDir, 'models--org--tiny/snapshots', commit, 'onnx'))).toEqual([]);
});

test('a cache that cannot be written is named', async () => {
  writeFileSync(cacheDir, 'a file in the place of the folder');
  await expect(resolveModel('org/tiny', wanted, { cacheDir })).rejects.toMatchObject({
    code: 'NOT_WRITABLE',
    message: expect.stringContaining(cacheDir) as string,
  });
  rmSync(cacheDir);
});

test.each([
  ['openai/clip@main', "Write 'openai/clip'"],
  ['hf-hub:timm/x', "Write 'timm/x'"],
  ['hf_hub:timm/x', "Write 'timm/x'"],
  ['https://huggingface.co/openai/clip', "Write 'openai/clip'"],
  ['huggingface.co/openai/clip/tree/main', "Write 'openai/clip'"],
  ['openai/clip@v2', "Write 'openai/clip' for its main revision; for another one download that, and give its folder"],
  [
    'https://huggingface.co/openai/clip/tree/v2',
    "Write 'openai/clip' for its main revision; for another one download that, and give its folder",
  ],
  ['runs/models/clip', 'Check the path'],
  ['clip', 'Check the path'],
])('%s is no id, and it says what to write', async (id, mend) => {
  await expect(resolveModel(id, wanted, { cacheDir })).rejects.toMatchObject({ code: 'FILE_NOT_FOUND', mend });
  expect(requests).toEqual([]);
});

test('a file is no model, and only one of a model is told of its folder', async () => {
  for (const [name, mend] of [
    ['names.txt', /^It is no file of a model/u],
    ['model.onnx', /^Give the folder that it is in: /u],
    ['model.pt', /is a pickle/u],
  ] as const) {
    writeFileSync(join(folder, name), 'x');
    await expect(resolveModel(join(folder, name), wanted, { cacheDir })).rejects.toMatchObject({
      code: 'BAD_MODEL',
      mend: expect.stringMatching(mend) as string,
    });
  }
});

test('a cache whose disk goes away is told of, and not the hub', async () => {
  const disk = losableDisk(folder);
  try {
    const onProgress = () => disk.lose();
    await expect(resolveModel('org/tiny', wanted, { cacheDir, onProgress })).rejects.toMatchObject({
      code: 'NOT_WRITABLE',
      message: expect.stringContaining('the mount is gone') as string,
    });
  } finally {
    disk.restore();
  }
});
