import { InvalidArgumentError } from 'commander';

/** Reads a whole number from 1, for an option of this name. */
export function parseCount(name: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isInteger(value) || value < 1)
      throw new InvalidArgumentError(`${name} takes a whole number from 1.`);
    return value;
  };
}

/** Reads a number above 0. */
export function parsePositive(name: string, most = Number.MAX_VALUE): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value > 0 && value <= most))
      throw new InvalidArgumentError(
        `${name} takes a number above 0${most === Number.MAX_VALUE ? '' : ` and up to ${most}`}.`,
      );
    return value;
  };
}
