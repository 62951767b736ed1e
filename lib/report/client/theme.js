// What the page's scripts share: the data, colours of the theme, formats, and the tip beside the pointer.
'use strict';
const report = { data: JSON.parse(document.getElementById('data').textContent), redraws: [] };

report.color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
// Colours of canvases that are painted many times; a new theme empties it.
const colors = new Map();
report.cached = (name) => {
  if (!colors.has(name)) colors.set(name, report.color(name));
  return colors.get(name);
};
report.runColor = (run) => report.color(`run-${run % 8}`);

report.format = {
  share: (value) => `${(100 * value).toFixed(1)} %`,
  count: (value) => (Math.abs(value) < 10 ? String(Number(value.toFixed(2))) : Math.round(value).toLocaleString('en')),
  number: (value) =>
    value === 0
      ? '0'
      : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5
        ? value.toExponential(2)
        : value.toPrecision(4),
};

// Pictures are drawn again where colours change: with the theme, and on paper, which is light.
report.redraw = () => {
  colors.clear();
  report.redraws.forEach((draw) => draw());
};
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', report.redraw);
addEventListener('beforeprint', () => {
  document.documentElement.dataset.theme = 'light';
  report.redraw();
});
addEventListener('afterprint', () => {
  delete document.documentElement.dataset.theme;
  report.redraw();
});

report.showTip = (text, x, y) => {
  const tip = document.getElementById('tip');
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y + height + 24 > innerHeight ? y - height - 12 : y + 16}px`;
};
report.hideTip = () => {
  document.getElementById('tip').hidden = true;
};

report.onResize = (element, draw) => {
  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (element.clientWidth === width || element.clientWidth === 0) return;
    width = element.clientWidth;
    draw();
  }).observe(element);
};
