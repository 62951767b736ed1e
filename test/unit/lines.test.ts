import { expect, it } from 'vitest';
import { joinedLines, wholeLines } from '../../lib/lines.js';

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
