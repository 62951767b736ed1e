import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { shellWord } from '../../lib/shell.js';

test.each(['runs/first', '/data/Bäume, 2 km/run', "don't", '$HOME `x` "y" \\ ~ * ; & | < >', 'a\nb', ''])(
  'a shell reads %j as one word',
  (text) => {
    const { stdout } = spawnSync('sh', ['-c', `printf '<%s>' ${shellWord(text)}`], { encoding: 'utf8' });
    expect(stdout).toBe(`<${text}>`);
  },
);

test('what needs no quotes has none', () => {
  expect(shellWord('runs/größer_2.0-b')).toBe('runs/größer_2.0-b');
});
