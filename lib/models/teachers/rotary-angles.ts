/**
 * Rotary positions in two dimensions, as DINOv3 has them (Siméoni et al. 2025, section 3.2): the centre of a patch lies
 * at y, x from -1 to 1, whatever the grid, and turns a head of W channels by 2 pi y / base^(4 j / W), then by as many
 * angles of x, j from 0 to W / 4 - 1.
 */

/**
 * @param grid patches a side
 * @param width W, a multiple of 4
 * @param base the longest period, of coordinates
 * @returns [grid * grid, W], row by row of the grid: the cosines of a patch's W / 2 angles, then their sines
 */
export function rotaryAngles({ grid, width, base }: { grid: number; width: number; base: number }): Float32Array {
  const quarter = width / 4;
  const table = new Float32Array(grid * grid * width);
  for (let patch = 0; patch < grid * grid; patch++) {
    const centre = [Math.floor(patch / grid), patch % grid].map((at) => (2 * (at + 0.5)) / grid - 1);
    for (let i = 0; i < 2 * quarter; i++) {
      const angle = (2 * Math.PI * centre[Math.floor(i / quarter)]!) / base ** ((i % quarter) / quarter);
      table[patch * width + i] = Math.cos(angle);
      table[patch * width + 2 * quarter + i] = Math.sin(angle);
    }
  }
  return table;
}
