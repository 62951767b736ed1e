import { expect, test } from 'vitest';
import { LgdError } from '../../lib/errors.js';
import { checkNumber, checkWhole, describeRange, type NumberRange } from '../../lib/number-limits.js';

const open = { above: 0, below: 1 };

const isTaken = (found: unknown, range: NumberRange): boolean => {
  try {
    checkNumber('n', found, range);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(LgdError);
    return false;
  }
};

test('the ends of a range belong to it, but for those that it lies above and below', () => {
  const closed = { least: -1, most: 2 };
  expect([-1, -0, 2].every((found) => isTaken(found, closed))).toBe(true);
  expect([-1.001, 2.001].some((found) => isTaken(found, closed))).toBe(false);
  expect([1e-300, 0.999].every((found) => isTaken(found, open))).toBe(true);
  expect([-0, 0, 1].some((found) => isTaken(found, open))).toBe(false);
});

test('a range is said as people say it', () => {
  expect(describeRange({ whole: true, least: 0, most: 1e9 })).toBe('a whole number from 0 to 1e9');
  expect(describeRange({ least: 0, below: 1 })).toBe('a number from 0 and below 1');
  expect(describeRange({ above: 0, most: 1 })).toBe('a number above 0 and up to 1');
  expect(describeRange(open)).toBe('a number above 0 and below 1');
  expect(['above 0', 'to 5', 'below 5'].map((words) => `a number ${words}`)).toEqual(
    [{ above: 0 }, { most: 5 }, { below: 5 }].map(describeRange),
  );
});

test('a whole number is one that is exact', () => {
  expect([0, 2 ** 53 - 1].every((found) => isTaken(found, { whole: true }))).toBe(true);
  expect([0.5, 2 ** 53, 1e21].some((found) => isTaken(found, { whole: true }))).toBe(false);
});

test.each([
  [undefined, 'n: this is missing. Allowed: a whole number from 1 to 9.'],
  [0, 'n: this number does not fit. Found: 0. Allowed: a whole number from 1 to 9.'],
  [Infinity, 'n: this number is not finite. Found: Infinity. Allowed: a whole number from 1 to 9.'],
  [NaN, 'n: this number is not finite. Found: NaN. Allowed: a whole number from 1 to 9.'],
  ['5', 'n: this is no number. Found: "5". Allowed: a whole number from 1 to 9.'],
  [null, 'n: this is no number. Found: null. Allowed: a whole number from 1 to 9.'],
  [5n, 'n: this is no number. Found: 5n. Allowed: a whole number from 1 to 9.'],
])('%o is refused by what is wrong with it', (found, message) => {
  expect(() => checkWhole('n', found, 9)).toThrow(expect.objectContaining({ code: 'BAD_OPTION', message }));
});
