// Trains on images that come as a stream, here from a tar archive on standard input (of which npx can ask nothing):
// tar c photos | npx --yes tsx examples/streaming.ts --bank bank.safetensors
import { parseArgs } from 'node:util';
import {
  createStudent,
  Distiller,
  ImageCache,
  loadTeacher,
  openDevice,
  TextualSemanticsBank,
  type ImageBytes,
} from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    // lgdistill bank build --names names.txt --text-encoder Xenova/clip-vit-base-patch32 --to bank.safetensors
    bank: { type: 'string', default: 'bank.safetensors' },
    clip: { type: 'string', default: 'Xenova/clip-vit-base-patch32' },
    output: { type: 'string', default: 'runs/streaming' },
    memory: { type: 'string', default: '4096' }, // MiB of pixels in memory; the rest goes to a file
    epochs: { type: 'string', default: '90' },
    batch: { type: 'string', default: '64' },
  },
});

/** The files of a tar archive (POSIX ustar: blocks of 512 bytes, a header before each file), one after the other. */
async function* untar(archive: AsyncIterable<Uint8Array>): AsyncGenerator<ImageBytes> {
  let buffer = Buffer.alloc(0);
  let entry: { id: string; size: number; isFile: boolean } | undefined;
  for await (const chunk of archive) {
    buffer = Buffer.concat([buffer, chunk]);
    for (;;) {
      if (entry === undefined) {
        if (buffer.length < 512) break;
        const text = (from: number, to: number) => buffer.toString('utf8', from, to).replace(/\0.*$/su, '');
        const name = [text(345, 500), text(0, 100)].filter(Boolean).join('/');
        if (name !== '') entry = { id: name, size: parseInt(text(124, 136), 8), isFile: /^0?$/u.test(text(156, 157)) };
        buffer = buffer.subarray(512);
      } else {
        const { id, size, isFile } = entry;
        const stored = Math.ceil(size / 512) * 512;
        if (buffer.length < stored) break;
        if (isFile) yield { id, bytes: Buffer.from(buffer.subarray(0, size)) };
        buffer = buffer.subarray(stored);
        entry = undefined;
      }
    }
  }
}

using device = await openDevice('auto');
await using teacher = await loadTeacher(options.clip, { device });
const tsb = await TextualSemanticsBank.load(options.bank);

// The stream is read once: what stays is pixels at the size that training needs, and a run takes as many epochs from
// them as it likes.
using images = await ImageCache.fromStream(untar(process.stdin), {
  device,
  resolution: teacher.resolution,
  memoryLimitBytes: Number(options.memory) * 2 ** 20,
  onProgress: ({ done, broken }) => console.log(`${done} images, ${broken} broken`),
});

const student = createStudent('mobilenet_v2', { device, embeddingSize: teacher.embeddingSize });
using distiller = new Distiller({
  device,
  teacher,
  student,
  tsb,
  images: images.length,
  config: {
    output: options.output,
    overwrite: true,
    train: { epochs: Number(options.epochs), batchSize: Number(options.batch) },
  },
});
for await (const event of distiller.run(images)) {
  if (event.type === 'done') console.log(`done: ${event.step} steps, ${event.folder}`);
}
