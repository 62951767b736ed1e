/** JSON nests as deep as its writer likes: it can be read so, but neither written again nor quoted in an error. */
import { mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadConfigFile, parseConfig } from '../../lib/config/config.js';
import { LgdError } from '../../lib/errors.js';
import { readManifest } from '../../lib/files/manifest.js';
import { readSafetensors, writeSafetensors } from '../../lib/files/safetensors.js';
import { readPreprocessor } from '../../lib/models/teachers/preprocessor.js';
import { readDense } from '../../lib/runs/network-file.js';
import { readStudent } from '../../lib/runs/student-file.js';
import { CategoryList } from '../../lib/text/names.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { allRuns } from '../fixtures/runs.js';
import { writeOwnStudent } from '../fixtures/valid-files.js';

const root = temporaryFolder();
const depth = 100_000;
const deep = `${'['.repeat(depth)}${']'.repeat(depth)}`;

/** A safetensors file of nothing but a header. */
function headerAlone(header: string): Buffer {
  const bytes = Buffer.alloc(8 + header.length);
  bytes.writeBigUInt64LE(BigInt(header.length));
  bytes.write(header, 8);
  return bytes;
}

const readers: [
  what: string,
  code: string,
  file: string,
  content: string | Buffer,
  read: (file: string, folder: string) => Promise<unknown>,
][] = [
  ['names', 'BAD_NAMES', 'names.json', `[${deep}]`, (file) => CategoryList.load(file)],
  [
    'an option in the wrong place',
    'BAD_CONFIG',
    'a.json',
    `{"train.batchSize":${deep}}`,
    async (file) => parseConfig(await loadConfigFile(file)),
  ],
  [
    'the place of a tensor',
    'BAD_FILE',
    'a.safetensors',
    headerAlone(`{"a":{"dtype":"F32","shape":[1],"data_offsets":${deep}}}`),
    readSafetensors,
  ],
  ['a size', 'BAD_MODEL', 'preprocessor_config.json', `{"size":${deep}}`, (_, folder) => readPreprocessor(folder)],
  [
    'the bytes of a file in a checkpoint',
    'BAD_CHECKPOINT',
    'manifest.json',
    `{"format":"lgdistill-checkpoint","files":{"a":{"bytes":${deep},"sha256":""}}}`,
    (_, folder) => readManifest(folder),
  ],
  ['an option of a run', 'BAD_FILE', 'config.json', `{"train":{"epochs":${deep}}}`, (_, folder) => allRuns([folder])],
  [
    'a description of a network',
    'BAD_MODEL',
    'a.safetensors',
    headerAlone(JSON.stringify({ __metadata__: { format: 'lgdistill-dense', dense: `{"task":${deep}}` } })),
    (file) => readDense(file, 'detection'),
  ],
];

it.each(readers)('%s', async (_, code, name, content, read) => {
  const folder = await mkdtemp(join(root, 'nested-'));
  const file = join(folder, name);
  await writeFile(file, content);
  const error: unknown = await read(file, folder).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(LgdError);
  expect(error).toMatchObject({ code });
});

it('the graph of a student', async () => {
  const file = join(root, 'student.safetensors');
  await writeOwnStudent(file);
  const { tensors, metadata } = await readSafetensors(file);
  const graph = metadata['graph']!.replace('"init":', `"init":${deep},"other":`);
  await writeSafetensors(file, tensors, { ...metadata, graph });
  await expect(readStudent(file)).rejects.toMatchObject({ code: 'BAD_MODEL' });
});
