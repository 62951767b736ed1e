// The map of the banks: both anchors of each category, joined; uPlot has the axes and the zoom, the rest is drawn on
// its canvas.
'use strict';
report.maps = (() => {
  const labelled = 120; // categories up to which names stand beside their points, as far as there is room
  const mostLabels = 30; // names shown of those that a search finds

  function start() {
    document.querySelectorAll('[data-map]').forEach((element) => {
      const map = report.data.maps[Number(element.dataset.map)];
      const find = document.querySelector(`[data-map-find="${element.dataset.map}"]`);
      const view = { plot: undefined, base: document.createElement('canvas'), hovered: -1, query: '' };
      const draw = () => {
        view.plot?.destroy();
        element.textContent = '';
        view.plot = makePlot(element, map, view);
      };
      draw();
      find.addEventListener('input', () => {
        view.query = find.value.trim().toLowerCase();
        view.plot.redraw();
      });
      report.onResize(element, () => view.plot.setSize(sizeOf(element)));
      report.redraws.push(draw);
    });
  }

  function sizeOf(element) {
    return { width: element.clientWidth, height: Math.round(Math.max(300, Math.min(620, 0.62 * element.clientWidth))) };
  }

  function makePlot(element, map, view) {
    const points = [...map.textual.x.keys()]
      .flatMap((k) => [
        [map.textual.x[k], map.textual.y[k]],
        ...(map.visual.x[k] === null ? [] : [[map.visual.x[k], map.visual.y[k]]]),
      ])
      .sort((a, b) => a[0] - b[0]);
    const axis = {
      stroke: () => report.color('muted'),
      grid: { stroke: () => report.color('grid'), width: 1 },
      ticks: { show: false },
      font: '11px system-ui, sans-serif',
    };
    const padded = (plot, low, high) => [low - 0.06 * (high - low) - 1e-6, high + 0.06 * (high - low) + 1e-6];
    const plot = new uPlot(
      {
        ...sizeOf(element),
        padding: [8, 8, 0, 0],
        cursor: { drag: { x: true, y: true, uni: 20 }, points: { show: false }, x: false, y: false },
        legend: { show: false },
        scales: { x: { time: false, range: padded }, y: { range: padded } },
        axes: [
          { ...axis, size: 26 },
          { ...axis, size: 46 },
        ],
        series: [{}, { paths: () => null, points: { show: false } }],
        hooks: { draw: [(plot) => paint(plot, map, view)] },
      },
      [points.map(([x]) => x), points.map(([, y]) => y)],
      element,
    );
    plot.over.addEventListener('pointermove', (event) => point(plot, map, view, event));
    plot.over.addEventListener('pointerdown', (event) => point(plot, map, view, event));
    plot.over.addEventListener('pointerleave', () => {
      setHovered(plot, map, view, -1);
      report.hideTip();
    });
    return plot;
  }

  // What was under the mark is kept, so that a moving pointer costs one category and not twenty thousand.
  function setHovered(plot, map, view, category) {
    if (view.hovered === category) return;
    view.hovered = category;
    plot.ctx.clearRect(0, 0, view.base.width, view.base.height);
    plot.ctx.drawImage(view.base, 0, 0);
    mark(plot, map, view);
  }

  function point(plot, map, view, event) {
    const { left, top } = plot.over.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    let best = { distance: 24 ** 2, category: -1 };
    for (const side of [map.textual, map.visual]) {
      side.x.forEach((at, k) => {
        if (at === null) return;
        const distance = (plot.valToPos(at, 'x') - x) ** 2 + (plot.valToPos(side.y[k], 'y') - y) ** 2;
        if (distance < best.distance) best = { distance, category: k };
      });
    }
    setHovered(plot, map, view, best.category);
    if (best.category < 0) report.hideTip();
    else
      report.showTip(
        map.names[best.category] + (map.visual.x[best.category] === null ? ' (unseen)' : ''),
        event.clientX,
        event.clientY,
      );
  }

  function paint(plot, map, view) {
    const { ctx } = plot;
    const found =
      view.query === '' ? [] : [...map.names.keys()].filter((k) => map.names[k].toLowerCase().includes(view.query));
    const faded = view.query !== '';
    const isFound = new Set(found);
    inside(plot, () => {
      anchors(
        plot,
        map,
        [...map.names.keys()].filter((k) => !isFound.has(k)),
        faded ? { line: 0.08, point: 0.2 } : { line: 0.35, point: 1 },
      );
      anchors(plot, map, found, { line: 1, point: 1, strong: true });
      const named =
        found.length > 0 ? found.slice(0, mostLabels) : map.names.length <= labelled ? [...map.names.keys()] : [];
      label(plot, map, named, found.length > 0);
    });
    view.base.width = ctx.canvas.width;
    view.base.height = ctx.canvas.height;
    view.base.getContext('2d').drawImage(ctx.canvas, 0, 0);
    mark(plot, map, view);
  }

  function mark(plot, map, view) {
    if (view.hovered >= 0) inside(plot, () => anchors(plot, map, [view.hovered], { line: 1, point: 1, strong: true }));
  }

  function inside({ ctx, bbox }, draw) {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  const place = (plot, side, k) => [plot.valToPos(side.x[k], 'x', true), plot.valToPos(side.y[k], 'y', true)];

  // The anchors of some categories, and their lines, with these opacities.
  function anchors(plot, map, chosen, { line, point, strong = false }) {
    const { ctx } = plot;
    const scale = devicePixelRatio;
    const size = (map.names.length > 2000 ? 1.6 : map.names.length > 300 ? 2.4 : 3.6) * scale * (strong ? 1.5 : 1);
    const seen = chosen.filter((k) => map.visual.x[k] !== null);
    const textual = seen.map((k) => place(plot, map.textual, k));
    const visual = seen.map((k) => place(plot, map.visual, k));
    ctx.globalAlpha = line;
    lines(
      ctx,
      textual.map((from, i) => [from, visual[i]]),
      (strong ? 1.6 : 0.8) * scale,
    );
    ctx.globalAlpha = point;
    circles(ctx, textual, size, 'run-0', scale);
    circles(ctx, visual, size, 'run-1', 0);
    crosses(
      ctx,
      chosen.filter((k) => map.visual.x[k] === null).map((k) => place(plot, map.textual, k)),
      size,
      scale,
    );
    ctx.globalAlpha = 1;
  }

  // Many marks of a kind are one path: a bank may have twenty thousand.
  function lines(ctx, pairs, width) {
    ctx.beginPath();
    for (const [from, to] of pairs) {
      ctx.moveTo(...from);
      ctx.lineTo(...to);
    }
    ctx.strokeStyle = report.cached('muted');
    ctx.lineWidth = width;
    ctx.stroke();
  }

  function circles(ctx, places, radius, color, ring) {
    ctx.beginPath();
    for (const [x, y] of places) {
      ctx.moveTo(x + radius, y);
      ctx.arc(x, y, radius, 0, 2 * Math.PI);
    }
    ctx.fillStyle = report.cached(ring > 0 ? 'panel' : color);
    ctx.fill();
    if (ring === 0) return;
    ctx.strokeStyle = report.cached(color);
    ctx.lineWidth = 1.6 * ring;
    ctx.stroke();
  }

  function crosses(ctx, places, radius, scale) {
    ctx.beginPath();
    for (const [x, y] of places) {
      for (const turn of [1, -1]) {
        ctx.moveTo(x - radius, y - turn * radius);
        ctx.lineTo(x + radius, y + turn * radius);
      }
    }
    ctx.strokeStyle = report.cached('warn');
    ctx.lineWidth = 1.6 * scale;
    ctx.stroke();
  }

  // Names beside their textual anchors, right or left, where they hide no other name; and, unless they were asked for,
  // no point either.
  function label(plot, map, categories, asked) {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    ctx.font = `${11 * scale}px system-ui, sans-serif`;
    ctx.textBaseline = 'middle';
    ctx.textAlign = 'left';
    ctx.lineWidth = 3 * scale;
    ctx.strokeStyle = report.cached('panel');
    ctx.fillStyle = report.cached('text');
    const around = ([x, y]) => ({
      left: x - 3 * scale,
      right: x + 3 * scale,
      top: y - 3 * scale,
      bottom: y + 3 * scale,
    });
    const taken = asked
      ? []
      : [map.textual, map.visual].flatMap((side) =>
          [...side.x.keys()].filter((k) => side.x[k] !== null).map((k) => around(place(plot, side, k))),
        );
    const isFree = (box) =>
      box.left >= bbox.left &&
      box.right <= bbox.left + bbox.width &&
      !taken.some(
        (other) => box.left < other.right && box.right > other.left && box.top < other.bottom && box.bottom > other.top,
      );
    for (const k of categories) {
      const [x, y] = place(plot, map.textual, k);
      const width = ctx.measureText(map.names[k]).width;
      const box = [x + 6 * scale, x - 6 * scale - width]
        .map((left) => ({ left, right: left + width, top: y - 6 * scale, bottom: y + 6 * scale }))
        .find(isFree);
      if (box === undefined) continue;
      taken.push(box);
      ctx.strokeText(map.names[k], box.left, y);
      ctx.fillText(map.names[k], box.left, y);
    }
  }

  return { start };
})();
