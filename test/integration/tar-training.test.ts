import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from 'tar';
import { beforeAll, expect, it } from 'vitest';
import type { ConfigInput } from '../../lib/config/config.js';
import { openImageFolder } from '../../lib/data/image-folder.js';
import { packImages } from '../../lib/data/pack/pack.js';
import { evaluateProtocol } from '../../lib/evaluate/protocols.js';
import { PrecomputedTeacher } from '../../lib/models/index.js';
import { markOf } from '../../lib/train/resume/teacher-mark.js';
import { lgdistill } from '../cli/program.js';
import { temporaryFolder } from '../fixtures/folder.js';
import { drawShapes, madeUpTeacher, ofType, smallConfig, train } from '../fixtures/tiny.js';

const folder = temporaryFolder();
let data: string;
let models: { teacher: string; bank: string };
let ids: string[];
const config = (source: string, output: string): ConfigInput => ({
  ...smallConfig(source, join(folder, output), {
    ...models,
    train: { epochs: 1, warmupEpochs: 0, maxSteps: 1, batchSize: 4 },
  }),
  names: undefined,
});

beforeAll(async () => {
  data = await drawShapes(join(folder, 'data'), { count: 8, size: 32 });
  const { teacher, bank, ids: known } = await madeUpTeacher(join(folder, 'made-up'));
  [models, ids] = [{ teacher, bank }, known];
});

it('a run, an evaluation and a measurement say how many members of tar shards they leave out', async () => {
  const tar = join(folder, 'shapes.tar');
  await create({ file: tar, cwd: data, portable: true }, [...ids, ids[3]!]); // which stands there twice
  const embeddings = await PrecomputedTeacher.load(models.teacher);
  await PrecomputedTeacher.save(
    models.teacher,
    [...ids, ...ids.map((id) => `shapes.tar/${id}`)],
    Float32Array.of(...embeddings.lookup(ids), ...embeddings.lookup(ids)),
    { resolution: 32 },
  );
  const remark = `1 image in ${tar} is left out, such as shapes.tar/${ids[3]!}: a later member has the same path`;
  const [start] = ofType((await train(config(tar, 'from-tar'))).events, 'start');
  expect(start).toMatchObject({ images: ids.length, remarks: [remark] });

  const student = join(folder, 'from-tar');
  const evaluate = { data: tar, train: data, output: join(folder, 'scores') };
  expect(await evaluateProtocol({ student, protocol: 'knn', config: { evaluate, device: 'cpu' } })).toMatchObject({
    images: { length: ids.length },
    remarks: [remark],
  });
  expect(JSON.parse(await readFile(join(folder, 'scores', 'knn.json'), 'utf8'))).toMatchObject({ remarks: [remark] });
  const { stdout, code } = await lgdistill(['evaluate', '--student', student, '--data', tar, '--device', 'cpu']);
  expect(code).toBe(0);
  expect(stdout).toContain(remark);
  expect(
    (await lgdistill(['bench', 'data', tar, '--seconds', '0.02', '--resolution', '32'])).stdout.split(remark),
  ).toHaveLength(2);
});

it('two images of one id are refused where embeddings are looked up by it', async () => {
  const source = await openImageFolder(data);
  const twice = source.ids.map((id, i) => (i === 5 ? source.ids[2]! : id));
  const pack = join(folder, 'twice.pack');
  await packImages({ ...source, ids: twice }, { output: pack });
  const refusal = {
    code: 'BAD_DATASET',
    message: expect.stringContaining(`two images have the id "${twice[5]}"`) as string,
  };
  await expect(train(config(pack, 'from-pack'))).rejects.toMatchObject(refusal);
  // of a caller's own data set
  await expect(markOf(await PrecomputedTeacher.load(models.teacher), twice)).rejects.toMatchObject(refusal);
});
