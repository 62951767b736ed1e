import { describe, expect, it } from 'vitest';
import { philox, PhiloxStream, type PhiloxBlock } from '../../lib/data/philox.js';

const wordsOf = (value: bigint): [number, number] => [Number(value & 0xffffffffn), Number(value >> 32n)];
const blockOf = (key: bigint, high: bigint, low: bigint): PhiloxBlock =>
  philox(...wordsOf(key), [...wordsOf(low), ...wordsOf(high)]);

describe('philox', () => {
  // Known answers of philox4x32-10 from Random123's kat_vectors: counter (low to high), key (low, high), words.
  it.each([
    [0n, 0n, 0n, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    [0xffffffffffffffffn, 0xffffffffffffffffn, 0xffffffffffffffffn, [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]],
    [0x299f31d0a4093822n, 0x0370734413198a2en, 0x85a308d3243f6a88n, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]],
  ])('gives the known answer for key %s', (key, high, low, words) => {
    expect(blockOf(key, high, low)).toEqual(words);
  });

  it('streams 53-bit numbers from consecutive blocks', () => {
    const stream = new PhiloxStream(0x299f31d0a4093822n, 7n);
    for (let block = 0n; block < 3n; ++block) {
      const words = blockOf(0x299f31d0a4093822n, 7n, block);
      for (const i of [0, 2])
        expect(stream.next()).toBe(((words[i]! >>> 5) * 2 ** 26 + (words[i + 1]! >>> 6)) / 2 ** 53);
    }
  });
});
