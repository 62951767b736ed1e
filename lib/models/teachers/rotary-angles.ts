/** The tables of rotary positions in two dimensions. */

/**
 * A patch has two coordinates. The first turns a head of W channels by itself over base^(4 j / W), the other one by as
 * many angles behind these, j from 0 to W / 4 - 1.
 * @param options grid: patches a side; width: W, a multiple of 4; place: the coordinates of a patch, in radians
 * @returns [grid * grid, W], row by row of the grid: the cosines of a patch's W / 2 angles, then their sines
 */
export function rotaryAngles({
  grid,
  width,
  base,
  place,
}: {
  grid: number;
  width: number;
  base: number;
  place: (row: number, column: number) => readonly [number, number];
}): Float32Array {
  const quarter = width / 4;
  const table = new Float32Array(grid * grid * width);
  for (let patch = 0; patch < grid * grid; patch++) {
    const coordinates = place(Math.floor(patch / grid), patch % grid);
    for (let i = 0; i < 2 * quarter; i++) {
      const angle = coordinates[Math.floor(i / quarter)]! / base ** ((i % quarter) / quarter);
      table[patch * width + i] = Math.cos(angle);
      table[patch * width + 2 * quarter + i] = Math.sin(angle);
    }
  }
  return table;
}

/**
 * DINOv3's coordinates (Siméoni et al. 2025, section 3.2): row and column of a patch's centre, a turn to either side of
 * the image's middle, whatever the grid.
 */
export function centred(grid: number): (row: number, column: number) => readonly [number, number] {
  const turn = (at: number) => 2 * Math.PI * ((2 * (at + 0.5)) / grid - 1);
  return (row, column) => [turn(row), turn(column)];
}
