// Writes docs/options.md from the option table of the built library.
//   npm run docs:options
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { optionsPage } from './docs/options.mjs';

const { configOptions } = await import('../dist/index.js').catch((cause) => { throw new Error('the library is not built; type: npm run build:ts', { cause }); });
writeFileSync(fileURLToPath(new URL('../docs/options.md', import.meta.url)), optionsPage(configOptions()));
