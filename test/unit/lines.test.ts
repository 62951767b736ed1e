import { expect, it } from 'vitest';
import { inOneLine, joinedLines, wholeLines } from '../../lib/files/lines.js';

it('lines are joined some thousand at a time', () => {
  const items = Array.from({ length: 20_000 }, (_, i) => `ü${i}`);
  const texts = [...joinedLines(items, (item, index) => `${index}:${item}`)];
  expect(texts.length).toBeGreaterThan(2);
  expect(texts.join('')).toBe(items.map((item, index) => `${index}:${item}\n`).join(''));
  expect([...joinedLines([], String)]).toEqual([]);
});

it('lines are found wherever chunks end, and their bytes counted; what no line end follows is left out', async () => {
  const text = Buffer.from('first\n\nünïcode €\na longer line than the others\ntorn');
  async function* chunksOf(size: number) {
    for (let from = 0; from < text.length; from += size) yield text.subarray(from, from + size);
  }
  for (let size = 1; size <= text.length + 1; size++) {
    const found: string[] = [];
    let total = 0;
    for await (const { lines, bytes } of wholeLines(chunksOf(size))) {
      expect(lines.length).toBeGreaterThan(0);
      found.push(...lines);
      total += bytes;
    }
    expect(found, `${size}`).toEqual(['first', '', 'ünïcode €', 'a longer line than the others']);
    expect(total).toBe(text.length - 4);
  }
});

it('a name takes one line and one column, and can be read back', () => {
  const names = [
    'a b.jpg',
    'two\nlines.jpg',
    'two\tcolumns.jpg',
    'end\r',
    '"quoted".jpg',
    'a "b".jpg',
    'caf\u00e9.jpg',
  ];
  const lines = names.map(inOneLine);
  expect([lines[0], lines[1], lines[5], lines[6]]).toEqual([names[0], '"two\\nlines.jpg"', names[5], names[6]]);
  expect(lines.join('')).not.toMatch(/\p{Cc}/u);
  expect(lines.map((line) => (line.startsWith('"') ? (JSON.parse(line) as string) : line))).toEqual(names);
});
