// TypeScript programs that use the installed package: an ES module and a CommonJS one.

const body = `
export async function train(folder: string): Promise<number> {
  const device: Device = await openDevice('cpu', { threads: 1 });
  const names = await CategoryList.load(['cat', 'dog']);
  const { bank } = await bankFromFile('rows.safetensors', { names, encoderId: 'mine' });
  const teacher = await loadTeacher(folder, { device });
  const student = createStudent('mobilenet_v2', { device, embeddingSize: teacher.embeddingSize, seed: 0 });
  const distiller = new Distiller({ device, teacher, student, tsb: bank, config: { output: 'runs/types', train: { epochs: 1 } } });
  const source = await openImageFolder(folder);
  const dataset = await ImageCache.build(source, { device, resolution: 64, margin: 1, memoryLimitBytes: 1e8, spillFolder: folder, maxBrokenShare: 0 });
  let last = 0;
  for await (const event of distiller.run(dataset, { signal: new AbortController().signal })) if (event.type === 'step') last = event.loss;
  const { loss, gradient }: { loss: number; gradient: Float32Array } = await bankLoss(
    { student: new Float32Array(2), teacher: new Float32Array(2), textual: new Float32Array(4), dimension: 2, alpha: 0, studentTemperature: 0.2, teacherTemperature: 0.01 },
    { device: 'js' },
  );
  return last + loss + gradient.length;
}
export function explain(error: unknown): string {
  return error instanceof LgdError ? error.code : 'unknown';
}
// @ts-expect-error a device has another name
void openDevice('gpu');
`;
const imports =
  'bankFromFile, bankLoss, CategoryList, createStudent, Device, Distiller, ImageCache, LgdError, loadTeacher, openDevice, openImageFolder';

/** Files to write, by name. */
export const consumers = {
  'consumer.mts': `import { ${imports} } from 'lgdistill';\n${body}`,
  'consumer.cts': `import lgdistill = require('lgdistill');\nimport type { Device } from 'lgdistill';\nconst { ${imports.replace(' Device,', '')} } = lgdistill;\n${body.replace('error instanceof LgdError', 'error instanceof lgdistill.LgdError')}`,
};

const options = { strict: true, noEmit: true, target: 'es2022', types: ['node'], skipLibCheck: false };

/** A tsconfig for each way that a module finds its types. */
export const projects = {
  'tsconfig.node16.json': {
    compilerOptions: { ...options, module: 'node16', moduleResolution: 'node16' },
    files: ['consumer.mts', 'consumer.cts'],
  },
  'tsconfig.bundler.json': {
    compilerOptions: { ...options, module: 'esnext', moduleResolution: 'bundler' },
    files: ['consumer.mts'],
  },
};
