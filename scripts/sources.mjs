// Prints the addon's C++ sources (and, with "cuda", the CUDA ones), one a line: the one list that every build reads.
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export function sources(kind) {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const extension = kind === 'cuda' ? '.cu' : '.cpp';
  return readdirSync(join(root, 'native'), { recursive: true })
    .filter((name) => name.endsWith(extension))
    .map((name) => `native/${name.replaceAll('\\', '/')}`)
    .sort();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(sources(process.argv[2] ?? 'cpu').join('\n'));
