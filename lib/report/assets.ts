/** The scripts and styles that a report carries, read when one is written. */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { LgdError } from '../errors.js';
import { shippedFolder } from '../package.js';

export interface Assets {
  styles: string;
  /** In the order in which they run. */
  scripts: string[];
  /** Licence of the chart library, which goes with its copy. */
  licence: string;
}

const clientScripts = ['theme.js', 'charts.js', 'map.js', 'gallery.js', 'page.js'];

/** @throws LgdError DEPENDENCY_MISSING (uPlot is not installed) */
export async function readAssets(): Promise<Assets> {
  const client = shippedFolder('report/client');
  const charts = chartLibrary();
  const read = (file: string) => readFile(file, 'utf8');
  const [chartScript, chartStyle, licence, style, ...own] = await Promise.all([
    read(join(charts, 'dist', 'uPlot.iife.min.js')),
    read(join(charts, 'dist', 'uPlot.min.css')),
    read(join(charts, 'LICENSE')),
    read(join(client, 'style.css')),
    ...clientScripts.map((name) => read(join(client, name))),
  ]);
  return { styles: `${chartStyle}\n${style}`, scripts: [chartScript!, own.join('\n')], licence: licence! };
}

function chartLibrary(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve('uplot/package.json'));
  } catch (cause) {
    throw new LgdError('DEPENDENCY_MISSING', 'uplot, which draws the curves of a report, is not installed.', {
      mend: 'Type: npm install uplot@1.6.32',
      cause,
    });
  }
}
