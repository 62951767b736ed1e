// The curves: one uPlot a figure, every cursor at the same place.
'use strict';
report.charts = (() => {
  const { charts, runs } = report.data.charts;
  const state = { axis: 'step', logX: false, logY: false, smooth: 0.6, hidden: new Set() };
  const dashes = [[], [7, 4], [2, 3]];
  const plots = new Map();
  const one = runs.length === 1;
  const sync = uPlot.sync('curves');

  // A moving average with weights that fall by `weight` a point, corrected for its start, as TensorBoard has it.
  function smoothed(values, weight) {
    let sum = 0;
    let total = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + value;
      total = weight * total + 1;
      return sum / total;
    });
  }

  // One [x, y] table a line, twice where it is smoothed: as it is, faint, and smoothed.
  function linesOf(chart) {
    const lines = [];
    runs.forEach((run, runIndex) => {
      if (state.hidden.has(runIndex)) return;
      const { x, y } = run[chart.source];
      const xs = x[state.axis];
      let isNamed = one;
      chart.lines.forEach(({ key, label }, place) => {
        const keep = xs.map((at, i) => i).filter((i) => xs[i] !== null && !(state.logX && xs[i] <= 0));
        const own = keep.map((i) => (state.logY && y[key][i] !== null && y[key][i] <= 0 ? null : y[key][i]));
        if (own.every((value) => value === null)) return;
        const line = {
          label: isNamed ? label : chart.lines.length === 1 ? run.name : `${run.name}, ${label}`,
          color: one ? place : runIndex,
          dash: dashes[one ? 0 : place % dashes.length],
          x: keep.map((i) => xs[i]),
        };
        const isSmooth =
          state.smooth > 0 &&
          chart.source === 'steps' &&
          own.length > 8 &&
          key !== 'learningRate' &&
          key !== 'categoriesSeen';
        isNamed = true;
        if (isSmooth) lines.push({ ...line, y: own, faint: true });
        lines.push({ ...line, y: isSmooth ? smoothed(own, state.smooth) : own, points: own.length < 40 });
      });
    });
    return lines;
  }

  // The point of a line nearest to the cursor: lines of several runs have points at different places.
  function nearestPoint(plot, series, index) {
    const values = plot.data[series];
    for (let away = 0; away < values.length; away++) {
      if (values[index - away] !== null && values[index - away] !== undefined) return index - away;
      if (values[index + away] !== null && values[index + away] !== undefined) return index + away;
    }
    return index;
  }

  function formatX(value) {
    if (state.axis === 'step') return Math.round(value).toLocaleString('en');
    if (state.axis === 'epoch') return value.toFixed(value < 10 ? 2 : 1);
    if (value < 1 / 30) return `${(3600 * value).toFixed(1)} s`;
    return value < 1 ? `${(60 * value).toFixed(1)} min` : `${value.toFixed(2)} h`;
  }

  function optionsFor(chart, lines, width) {
    const format = report.format[chart.unit];
    const axis = {
      stroke: () => report.color('muted'),
      grid: { stroke: () => report.color('grid'), width: 1 },
      ticks: { stroke: () => report.color('grid'), width: 1, size: 4 },
      font: '12px system-ui, sans-serif',
    };
    const labels = (values) =>
      values.map((value) =>
        value === null ? '' : chart.unit === 'share' ? `${exact(100 * value)} %` : axisNumber(value),
      );
    const [logX, logY] = [state.logX, state.logY];
    const bounded = chart.unit === 'share' && !logY;
    return {
      width,
      height: 220,
      padding: [8, 20, 0, 0], // on the right half of a label
      cursor: {
        sync: { key: sync.key, scales: ['x', null] },
        dataIdx: nearestPoint,
        points: { size: 6 },
        drag: { x: true, y: false },
      },
      scales: {
        x: { time: false, distr: logX ? 3 : 1, ...(logX && { range: logRange }) },
        y: { distr: logY ? 3 : 1, range: logY ? logRange : (plot, low, high) => rangeOf(low, high, bounded) },
      },
      axes: [
        {
          ...axis,
          size: 28,
          space: 60,
          values: (plot, values) =>
            values.map((value) => (value === null ? '' : state.axis === 'hours' ? formatX(value) : axisNumber(value))),
        },
        {
          ...axis,
          size: (plot, values) => Math.max(36, 16 + 7 * Math.max(0, ...(values ?? []).map((value) => value.length))),
          values: (plot, values) => labels(values),
        },
      ],
      series: [
        {
          label: { step: 'step', epoch: 'epoch', hours: 'training time' }[state.axis],
          value: (plot, value) => (value === null ? '–' : formatX(value)),
        },
        ...lines.map(({ label, color, dash, faint, points }) => ({
          label,
          stroke: report.runColor(color),
          width: faint ? 1 : 1.75,
          dash,
          alpha: faint ? 0.28 : 1,
          spanGaps: true,
          points: { show: !faint && points, size: 5, fill: report.color('panel') },
          value: (plot, value) => (value === null || value === undefined ? '–' : format(value)),
          class: faint ? 'faint' : undefined,
        })),
      ],
      hooks: { setCursor: [(plot) => plot.cursor.idx === null && showLast(plot)] },
      legend: {
        live: true,
        markers: {
          width: 2,
          dash: (plot, i) =>
            plot.series[i].dash?.length ? (plot.series[i].dash[0] < 7 ? 'dotted' : 'dashed') : 'solid',
        },
      },
    };
  }

  // Room above and below, from zero where that is near, and never past 0 to 100 %.
  function rangeOf(low, high, bounded) {
    if (low === null || high === null) return [0, 1];
    const room = Math.max(0.06 * (high - low), 1e-9, high - low < 1e-4 * Math.abs(high) ? 0.05 * Math.abs(high) : 0);
    const bottom = low >= 0 && low < 0.5 * high ? 0 : low - room;
    return bounded ? [Math.max(0, bottom), Math.min(1, high + room)] : [bottom, high + room];
  }

  // Eight decades at most, above 1e-12: an entropy may be 1e-33, where uPlot's steps have no end and nobody has an
  // interest.
  function logRange(plot, low, high) {
    if (low === null || high === null || high <= 0) return [0.1, 1];
    const top = Math.max(high, 1e-11);
    return uPlot.rangeLog(Math.min(top, Math.max(low, 1e-8 * top, 1e-12)), top, 10, false);
  }

  function axisNumber(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return `${exact(value / 1e6)}M`;
    if (size >= 1e4) return `${exact(value / 1e3)}k`;
    return size > 0 && size < 1e-3 ? exact(value).toExponential() : String(exact(value));
  }

  // Steps of an axis have few digits: what comes after twelve is rounding.
  function exact(value) {
    return Number(value.toPrecision(12));
  }

  // Where no cursor is, the legend reads the last values.
  function showLast(plot) {
    plot.setLegend({
      idxs: plot.data.map((values, series) =>
        series === 0 ? values.length - 1 : nearestPoint(plot, series, values.length - 1),
      ),
    });
  }

  function draw(element) {
    const chart = charts.find(({ id }) => id === element.dataset.chart);
    plots.get(element)?.destroy();
    const lines = linesOf(chart);
    element.classList.toggle('empty', lines.length === 0);
    if (lines.length === 0) {
      element.textContent = 'No points to show with these settings.';
      plots.delete(element);
      return;
    }
    element.textContent = '';
    const data = uPlot.join(lines.map(({ x, y }) => [x, y]));
    const plot = new uPlot(optionsFor(chart, lines, element.clientWidth), data, element);
    showLast(plot);
    plots.set(element, plot);
  }

  function drawAll() {
    document.querySelectorAll('[data-chart]').forEach(draw);
  }

  function start() {
    const controls = document.getElementById('controls');
    if (controls === null) return;
    controls.hidden = false;
    const timed = runs.some(({ steps }) => steps.x.hours.some((at) => at !== null));
    if (!timed) controls.querySelector('option[value=hours]').remove();
    const bind = (id, event, apply) =>
      document.getElementById(id).addEventListener(event, ({ target }) => {
        apply(target);
        drawAll();
      });
    bind('axis', 'change', ({ value }) => {
      state.axis = value;
    });
    bind('smooth', 'input', ({ value }) => {
      state.smooth = Number(value);
    });
    bind('log-x', 'change', ({ checked }) => {
      state.logX = checked;
    });
    bind('log-y', 'change', ({ checked }) => {
      state.logY = checked;
    });
    document.querySelectorAll('[data-toggle]').forEach((box) =>
      box.addEventListener('change', () => {
        state.hidden[box.checked ? 'delete' : 'add'](Number(box.dataset.toggle));
        drawAll();
      }),
    );
    document.querySelectorAll('[data-chart]').forEach((element) => {
      draw(element);
      report.onResize(element, () => plots.get(element)?.setSize({ width: element.clientWidth, height: 220 }));
    });
    report.redraws.push(drawAll);
  }

  return { start };
})();
