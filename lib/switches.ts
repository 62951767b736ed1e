/**
 * The environment variables that change how the package runs (CONTRIBUTING.md, "Debug switches"): a slip in one would
 * be as good as not setting it, without a word.
 */
import { LgdError } from './errors.js';
import { suggestion } from './text/spelling.js';

/** One of a few words, or text of a form that has a name. */
type Allowed = readonly string[] | { form: RegExp; name: string };

const anything: Allowed = { form: /^/u, name: 'any text' };
const count: Allowed = { form: /^[1-9]\d*$/u, name: 'a whole number from 1' };
const way: Allowed = { form: /^[01]{3}$/u, name: 'three figures, each 0 or 1' };
const onOff = ['0', '1'];
const yes = ['1'];

/** What each may say, if it says anything. */
const switches: Readonly<Record<string, Allowed>> = {
  LGDISTILL_ADDON: anything,
  LGDISTILL_ARENA: ['cleared'],
  LGDISTILL_AUTOTUNE: onOff,
  LGDISTILL_BRANCH: onOff,
  LGDISTILL_CARVEOUT: ['0', 'all'],
  LGDISTILL_DEBUG: anything,
  LGDISTILL_EMULATED_ADDON: anything,
  LGDISTILL_EMULATION_CACHE: count,
  LGDISTILL_EMULATION_CALLS: anything,
  LGDISTILL_EMULATION_CLOCK: anything,
  LGDISTILL_EMULATION_COUNTS: anything,
  LGDISTILL_EMULATION_DEVICES: count,
  LGDISTILL_EMULATION_FASTEST_WAY: way,
  LGDISTILL_EMULATION_FAULT: {
    form: /^[\w*|]+:[1-9]\d*:cudaError\w+$/u,
    name: 'function:number:error, as cudaMalloc:3:cudaErrorMemoryAllocation',
  },
  LGDISTILL_EMULATION_MULTIPROCESSORS: count,
  LGDISTILL_EMULATION_ORDER: ['forward', 'reverse', 'random', 'none'],
  LGDISTILL_EMULATION_PDL: onOff,
  LGDISTILL_EMULATION_PTX: anything,
  LGDISTILL_EMULATION_RACES: yes,
  LGDISTILL_EMULATION_REFUSE: yes,
  LGDISTILL_EMULATION_REFUSED_WAY: { form: /^(?:[01]{3}|any)$/u, name: `${way.name}, or any` },
  LGDISTILL_EMULATION_SHARED: count,
  LGDISTILL_EMULATION_WARM: onOff,
  LGDISTILL_EMULATION_WGMMA: onOff,
  LGDISTILL_EMULATION_WITHOUT: anything,
  LGDISTILL_FUSION: ['nodes', 'steps', 'layers'],
  LGDISTILL_GRAPHS: onOff,
  LGDISTILL_ISA: ['baseline', 'avx2', 'avx512'],
  LGDISTILL_PDL: onOff,
  LGDISTILL_PROBE: ['off', 'again'],
  LGDISTILL_SCORE_BYTES: count,
  LGDISTILL_TURBOJPEG: anything,
  LGDISTILL_WGMMA: onOff,
  // of builds, tests and measurements, which look at them themselves
  LGDISTILL_CHROMIUM: anything,
  LGDISTILL_CIFAR10: anything,
  LGDISTILL_CUDA_ARCH: anything,
  LGDISTILL_DAMAGED_FILES: anything,
  LGDISTILL_RANDOM_CALLS: anything,
  LGDISTILL_RANDOM_ENDS: anything,
  LGDISTILL_RANDOM_GRAPHS: anything,
  LGDISTILL_RANDOM_RUNS: anything,
  LGDISTILL_SANITIZE: anything,
  LGDISTILL_SHARED: anything,
  LGDISTILL_TESTS: ['all'],
  LGDISTILL_TEST_DEVICES: anything,
  LGDISTILL_TRACE: anything,
};

/**
 * Looks at what the switches say.
 * @throws LgdError BAD_OPTION of the first that says what it may not
 */
export function checkSwitches(): void {
  for (const [name, allowed] of Object.entries(switches)) {
    const found = process.env[name] ?? '';
    const isAllowed = 'form' in allowed ? allowed.form.test(found) : allowed.includes(found);
    if (found === '' || isAllowed) continue;
    throw new LgdError('BAD_OPTION', 'the environment variable says what it may not.', {
      option: `$${name}`,
      found,
      allowed: 'form' in allowed ? allowed.name : allowed.join(', '),
      mend: 'Correct or unset it',
    });
  }
}

/** Variables with the package's prefix that nothing reads, and what each may have been meant to be. */
export function unknownSwitches(): { name: string; mend: string }[] {
  const unknown = Object.keys(process.env).filter((name) => name.startsWith('LGDISTILL_') && !(name in switches));
  return unknown.map((name) => ({ name, mend: suggestion(name, Object.keys(switches)) ?? 'Unset it' }));
}
