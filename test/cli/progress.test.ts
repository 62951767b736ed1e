import { afterEach, expect, it, vi } from 'vitest';
import { startProgress } from '../../lib/cli/progress.js';
import type { Terminal } from '../../lib/cli/terminal.js';

afterEach(() => {
  vi.useRealTimers();
});

it('prints a plain line every few seconds, of what is known then', () => {
  vi.useFakeTimers();
  const lines: string[] = [];
  const terminal = { interactive: false, warn: (text: string) => lines.push(text) } as unknown as Terminal;
  const [images, steps] = [startProgress(terminal, 'features', 'images'), startProgress(terminal, 'verify')];
  const update = (done: number, details?: string) => {
    images.update(100 * done, 1000, details);
    steps.update(done, 2);
    return lines.splice(0);
  };
  expect(update(0)).toEqual([]);
  vi.advanceTimersByTime(6000);
  expect(update(0)).toEqual(['features 0/1000', 'verify 0/2']);
  vi.advanceTimersByTime(1000);
  expect(update(1)).toEqual([]);
  vi.advanceTimersByTime(5000);
  expect(update(1, 'loss 1.5 | ')).toEqual([
    'features 100/1000 | loss 1.5 | 8 images/s | 1 min 48 s left',
    'verify 1/2 | 12 s left',
  ]);
});
