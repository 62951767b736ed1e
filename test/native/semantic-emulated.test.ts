// The semantic tests once more, with an addon whose CUDA device runs on the host: the same kernels, the same golden steps.
import { buildEmulatedAddon } from './emulated.js';

process.env['LGDISTILL_ADDON'] = buildEmulatedAddon(); // both are read when the addon is loaded, by the first of the files below
process.env['LGDISTILL_EMULATION_ORDER'] = 'random';

await import('./semantic.test.js');
await import('./semantic-head.test.js');
