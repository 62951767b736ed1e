import { describe, expect, it } from 'vitest';
import { TextualSemanticsBank } from '../../lib/index.js';
import { unitRows, type RunBanks } from '../../lib/report/banks.js';
import { scoreClasses } from '../../lib/report/confusion.js';
import { mapBanks } from '../../lib/report/map.js';
import { embedJson, html, Html } from '../../lib/report/markup.js';
import { randomNumbers } from '../fixtures/random.js';

/**
 * K anchors in a plane of a space of many dimensions, shifted by another constant in each bank; `flat` are their true
 * coordinates.
 */
function planeBanks(size: number, dimension = 32): { banks: RunBanks; flat: [number, number][] } {
  const random = randomNumbers(7);
  const flat = Array.from({ length: size }, () => [random() - 0.5, 0.3 * (random() - 0.5)] as [number, number]);
  const rows = (shift: number) =>
    Float32Array.from(
      flat.flatMap(([a, b]) =>
        Array.from({ length: dimension }, (_, d) => (d === 3 ? a : d === 8 ? b : d === shift ? 1 : 0)),
      ),
    );
  const names = flat.map((_, k) => `name ${k}`);
  return {
    flat,
    banks: {
      names,
      size,
      embeddingSize: dimension,
      textual: rows(20),
      visual: rows(21),
      seen: new Uint8Array(size).fill(1),
      step: 5,
    },
  };
}

describe('mapBanks', () => {
  it('finds the plane that anchors lie in, whatever offset each bank has', () => {
    const { banks, flat } = planeBanks(40);
    const map = mapBanks(banks);
    expect(map.spread[0] + map.spread[1]).toBeCloseTo(1, 4);
    expect(map.spread[0]).toBeGreaterThan(map.spread[1]);
    expect(map.meanCosine).toBeLessThan(0.1);
    const mean = [0, 1].map((axis) => flat.reduce((sum, point) => sum + point[axis]!, 0) / flat.length);
    flat.forEach(([a, b], k) => {
      const expected = Math.hypot(a - mean[0]!, b - mean[1]!);
      for (const { x, y } of [map.textual, map.visual]) expect(Math.hypot(x[k]!, y[k]!)).toBeCloseTo(expected, 3);
      expect(map.visual.x[k]).toBeCloseTo(map.textual.x[k]!, 3);
    });
    expect(mapBanks(banks)).toEqual(map);
  });

  it('leaves out the visual anchors of unseen categories, and manages with two names', () => {
    const { banks } = planeBanks(2);
    banks.seen.fill(0);
    const map = mapBanks(banks);
    expect(map.visual).toEqual({ x: [null, null], y: [null, null] });
    expect([map.seen, map.textual.y]).toEqual([0, [0, 0]]);
    expect(map.textual.x[0]).toBeCloseTo(-map.textual.x[1]!, 4);
    expect(() => mapBanks(planeBanks(1).banks)).toThrow(expect.objectContaining({ code: 'BAD_CONFIG' }));
  });

  it('draws nothing that is not a number where no category was seen', () => {
    const bank = TextualSemanticsBank.fromEmbeddings(['a', 'b', 'c'], Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1), {
      encoderId: 'made up',
    });
    const map = mapBanks({
      names: bank.names,
      size: 3,
      embeddingSize: 3,
      textual: bank.data,
      visual: unitRows(Float32Array.of(1, 1, 0, 0, 0, 0, 0, 2, 0), 3),
      seen: new Uint8Array(3),
      step: 0,
    });
    for (const value of [...map.textual.x, ...map.textual.y, ...map.spread]) expect(Number.isFinite(value)).toBe(true);
  });
});

describe('scoreClasses', () => {
  it('gives each class its accuracy, and what it is taken for, the most frequent first', () => {
    const scores = scoreClasses({
      names: ['cat', 'dog', 'cow', 'hen'],
      targets: Int32Array.of(0, 0, 0, 0, 1, 1),
      student: Int32Array.of(0, 1, 2, 1, 1, 1),
      teacher: Int32Array.of(0, 0, 0, 0, 2, 1),
    });
    expect(scores).toEqual([
      {
        name: 'cat',
        images: 4,
        student: 0.25,
        teacher: 1,
        confusions: [
          { name: 'dog', share: 0.5 },
          { name: 'cow', share: 0.25 },
        ],
      },
      { name: 'dog', images: 2, student: 1, teacher: 0.5, confusions: [] },
    ]);
  });
});

describe('markup', () => {
  it('escapes every value but markup', () => {
    const name = `<b title="x">'&'</b>`;
    expect(html`<p title="${name}">${name}${new Html('<i>')}${[1, undefined, html`<u>${2}</u>`]}</p>`.text).toBe(
      '<p title="&lt;b title=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/b&gt;">&lt;b title=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/b&gt;<i>1<u>2</u></p>',
    );
  });

  it('embeds JSON that no name can end', () => {
    const value = { name: '</script><!--<script>' };
    const { text } = embedJson(value);
    expect(text).not.toContain('<');
    expect(JSON.parse(text)).toEqual(value);
  });
});
