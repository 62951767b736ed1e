// Writes docs/options.md and lib/config/input.ts from the option table of the built library.
//   npm run docs:options
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { configInputType } from './docs/config-input.mjs';
import { optionsPage } from './docs/options.mjs';

const { configOptions } = await import('../dist/index.js').catch((cause) => {
  throw new Error('the library is not built; type: npm run build:ts', { cause });
});
const write = (path, text) => writeFileSync(fileURLToPath(new URL(path, import.meta.url)), text);
write('../docs/options.md', optionsPage(configOptions()));
write('../lib/config/input.ts', await configInputType(configOptions()));
