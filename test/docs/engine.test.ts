import { expect, test } from 'vitest';
import { launchCounts, teacherLaunches } from '../fixtures/launch-counts.js';
import { readPage } from './pages.js';

const page = readPage('docs/engine.md');

test('the page tells the launches that are counted', () => {
  const table = /## Launches\n[^]*?\n\|(?<head>[^\n]*)\n\|[-|]+\n(?<rows>(?:\|[^\n]*\n)+)/u.exec(page)?.groups;
  const cells = (row: string) => row.split('|').map((cell) => cell.trim());
  const students = cells(table!['head']!).slice(1, -1);
  const told = table!
    ['rows']!.trim()
    .split('\n')
    .flatMap((row) => {
      const [, name, ...counts] = cells(row);
      return students.map((student, i) => [student, Number.parseInt(name!, 10), 227, Number(counts[i])]);
    });
  expect(told).toEqual(launchCounts.filter(([, , shared]) => shared === 227));
  expect(Number(/(\d+) of them are the teacher's/u.exec(page)![1])).toBe(teacherLaunches);
  const small = /\((\d+), (\d+) and (\d+) with\s99\sKiB\sat\s224\spx\)/u.exec(page)!.slice(1).map(Number);
  expect(small).toEqual(
    launchCounts.filter(([student, , shared]) => shared === 99 && student !== 'resnet18').map(([, , , nodes]) => nodes),
  );
});
