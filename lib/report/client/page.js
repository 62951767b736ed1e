// Starts what the page has.
'use strict';
document
  .querySelectorAll('.key[data-run]')
  .forEach((key) => key.style.setProperty('--key', `var(--run-${Number(key.dataset.run) % 8})`));
report.charts.start();
report.maps.start();
report.galleries.start();
