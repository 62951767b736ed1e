/** Images, data sets and streams of a caller's own, as programs without types make them. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import * as api from '../../lib/index.js';
import {
  config,
  device,
  folder,
  images,
  js,
  options,
  picture,
  prepareCalls,
  refusal,
  refused,
  student,
  teacher,
  tsb,
  type Anything,
} from '../fixtures/calls.js';

prepareCalls();

describe('images of a caller', () => {
  const source = (more: object) => ({ root: 'mine', ids: ['a', 'b'], read: async () => picture, ...more });
  const build = (more: object) => js.ImageCache.build(source(more), options(device));

  it('come as bytes of any kind that a file is read into', async () => {
    using cache = await build({ read: async () => new Uint8Array(picture) });
    expect(cache.length).toBe(2);
    await refused('BAD_OPTION', 'bytes', {
      text: () => build({ read: async () => 'bytes' }),
      buffer: () => build({ read: async () => new ArrayBuffer(3) }),
      nothing: () => build({ read: async () => undefined }),
    });
    const { message } = await refusal(() => build({ read: async (i: number) => (i === 1 ? undefined : picture) }));
    expect(message).toContain('what was read for b is not');
  });

  it('come from a source that has all it must', async () => {
    const wrong = { ids: new Set(['a']), read: 5, places: Int32Array.of(0), labels: null };
    for (const [option, value] of Object.entries(wrong))
      await refused('BAD_DATASET', option, { build: () => build({ [option]: value }) });
    const { message } = await refusal(() => build({ ids: null }));
    expect(message).toContain('this has no ids');
  });

  it('are prepared by a data set whose answers are looked at', async () => {
    const prepared: [what: string, prepare: (images: Int32Array) => unknown, words: string][] = [
      ['nothing', () => undefined, "prepare() of the data set did not give a batch's pixels"],
      ['no release', () => ({ store: images.store }), "prepare() of the data set did not give a batch's pixels"],
      [
        'too few',
        (indices) => ({ ...images.prepare(indices), shown: Int32Array.of(0) }),
        "prepare() of the data set did not give a batch's pixels",
      ],
      [
        'a text',
        () => {
          throw 'gone';
        },
        'the data set threw something that is no error. Found: "gone"',
      ],
      ['undefined', () => Promise.reject(), 'the data set threw undefined'],
    ];
    for (const [what, prepare, words] of prepared) {
      using own = new api.Distiller({
        device,
        teacher,
        student,
        tsb,
        config: { ...config, output: join(folder, `prepared ${what}`) },
      });
      const { length, ids, sourceIndex, store } = images;
      const run = async () => {
        for await (const event of own.run({ length, ids, sourceIndex, store, prepare } as Anything))
          expect(event.type).not.toBe('step');
      };
      const { code, option, message } = await refusal(run);
      expect({ code, option, message }, what).toEqual({
        code: 'BAD_DATASET',
        option: 'dataset',
        message: expect.stringContaining(words) as string,
      });
    }
  });

  it('have labels that fit', async () => {
    await refused('BAD_DATASET', 'labels', {
      few: () => build({ labels: Int32Array.of(0), classNames: ['x'] }),
      outside: () => build({ labels: Int32Array.of(0, 1), classNames: ['x'] }),
      unnamed: () => build({ labels: Int32Array.of(0, 0) }),
    });
  });

  it('come as a stream, not as its generator', async () => {
    await refused('BAD_DATASET', undefined, {
      generator: () =>
        js.ImageCache.fromStream(async function* () {
          yield undefined;
        }, options(device)),
      object: () => js.ImageCache.fromStream({}, options(device)),
      nothing: () => js.ImageCache.fromStream([null], options(device)),
      unnamed: () => js.ImageCache.fromStream([{ bytes: picture }], options(device)),
      buffers: () => js.imagesFromBuffers({}),
      noBytes: () => js.imagesFromBuffers([{ id: 'a' }]),
    });
  });

  it('are seen as evaluations see them by their indices alone', async () => {
    const view = { device, resolution: 32, mean: teacher.mean, std: teacher.std };
    const some = Int32Array.of(1, 2);
    const drawn = await api.readViews(
      images,
      { images: some, drawIds: some, seed: 3, epoch: 4 },
      { ...view, augment: false },
    );
    expect(await api.readViews(images, { images: some }, { ...view, augment: false })).toEqual(drawn);
    await refused('BAD_OPTION', 'batch', { augmented: () => api.readViews(images, { images: some }, view) });
    await refused('BAD_OPTION', 'mean', {
      missing: () => js.readViews(images, { images: some }, { device, resolution: 32, augment: false }),
    });
  });
});
