// A bar chart as SVG, without a library: the page must be checkable where no packages of bench are installed.

const [width, labelWidth, barHeight, gap, headHeight, valueWidth] = [800, 330, 16, 6, 34, 70];

/**
 * Horizontal bars on a logarithmic scale, one group below the other, sorted, each with its value.
 * @param {{ title: string, bars: { label: string, value: number, tone: 'ours' | 'other' | 'floor' }[] }[]} groups
 *   values above 0
 */
export function barChart(groups, { unit, note }) {
  const values = groups.flatMap(({ bars }) => bars.map(({ value }) => value));
  const [low, high] = [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
  const room = width - labelWidth - valueWidth;
  const lengthOf = (value) => ((Math.log10(value) - low) / (high - low)) * room;
  let y = 0;
  const parts = groups.map(({ title, bars }) => {
    const head = `<text class="title" x="0" y="${y + 20}">${escape(title)}</text>`;
    y += headHeight;
    const [top, height] = [y, bars.length * (barHeight + gap)];
    const lines = Array.from({ length: high - low + 1 }, (_, i) => labelWidth + (i * room) / (high - low)).map(
      (x, i) =>
        `<line x1="${x.toFixed(1)}" y1="${top}" x2="${x.toFixed(1)}" y2="${top + height}"/><text class="tick" x="${x.toFixed(1)}" y="${top + height + 10}">${10 ** (low + i)}</text>`,
    );
    const drawn = [...bars]
      .sort((a, b) => a.value - b.value)
      .map((bar) => {
        const middle = y + barHeight - 4;
        const length = Math.max(1, lengthOf(bar.value));
        const text =
          `<text class="label" x="${labelWidth - 8}" y="${middle}">${escape(bar.label)}</text><rect class="${bar.tone}" x="${labelWidth}" y="${y}" width="${length.toFixed(1)}" height="${barHeight}"/>` +
          `<text x="${(labelWidth + length + 6).toFixed(1)}" y="${middle}">${bar.value.toPrecision(3).includes('e') ? bar.value.toFixed(0) : bar.value.toPrecision(3)} ${unit}</text>`;
        y += barHeight + gap;
        return text;
      });
    y += 20;
    return [head, ...lines, ...drawn].join('\n');
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y + 18}" width="${width}" role="img">
<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .label { text-anchor: end } .tick { font-size: 9px; text-anchor: middle; fill: #6e7781 }
line { stroke: #d0d7de } .ours { fill: #0969da } .other { fill: #8c959f } .floor { fill: #1a7f37 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .tick { fill: #8d96a0 } line { stroke: #30363d } .ours { fill: #4493f8 } .other { fill: #6e7681 } .floor { fill: #3fb950 } }
</style>
${parts.join('\n')}
<text class="tick" x="${labelWidth}" y="${y + 8}" style="text-anchor: start">${unit}, ${escape(note)}</text>
</svg>
`;
}

const escape = (text) => text.replace(/[&<>]/g, (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[character]);
