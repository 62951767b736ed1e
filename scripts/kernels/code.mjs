// Reads the machine code that ptxas writes, for what the PTX does not show. An instruction has 16 bytes and its number in
// the lowest nine bits. The numbers were found by compiling kernels of one access each, before and behind the wait, with
// nvcc 13.0.

/**
 * Kernels' machine code by symbol: the sections .text.<symbol> of what ptxas writes, an ELF file of 64 bits.
 * @returns { bytes, start, copies }: how much it is; of code for 9.0 what is wrong with how it starts, '' for nothing;
 *   and how many copies to shared memory have a size that ptxas did not find to be 0 or 16
 */
export function readCode(cubin) {
  const number = (at, bytes) => (bytes === 8 ? Number(cubin.readBigUInt64LE(at)) : cubin.readUIntLE(at, bytes));
  const [headers, size, count, ofNames] = [number(0x28, 8), number(0x3a, 2), number(0x3c, 2), number(0x3e, 2)];
  const sections = Array.from({ length: count }, (_, i) => headers + i * size).map((at) => ({
    name: number(at, 4),
    offset: number(at + 0x18, 8),
    bytes: number(at + 0x20, 8),
  }));
  const names = sections[ofNames].offset;
  return new Map(
    sections.flatMap(({ name, offset, bytes }) => {
      const text = cubin.toString('latin1', names + name, cubin.indexOf(0, names + name));
      if (!text.startsWith('.text.')) return [];
      const code = cubin.subarray(offset, offset + bytes);
      return [[text.slice('.text.'.length), { bytes, start: faultOfStart(code), copies: copiesOfAnySize(code) }]];
    }),
  );
}

/** ptxas moves instructions, but must move none that reads or writes memory before the wait (wait_for_inputs()). */
function faultOfStart(code) {
  const wait = 0x2e;
  // 0x182: of constants, which the arguments are; 0x147, 0x14d: a branch, the end
  const isEarly = (number) =>
    (number >= 0x180 && number < 0x1b0 && number !== 0x182) || [0x147, 0x14d].includes(number);
  for (let at = 0; at < code.length; at += 16) {
    const number = code.readUInt16LE(at) & 0x1ff;
    if (number === wait) return '';
    if (isEarly(number)) return `instruction ${at / 16} of its code, 0x${number.toString(16)}, stands before the wait`;
  }
  return 'its code has no wait';
}

/**
 * Copies of cp.async, LDGSTS. Where one is known to copy all or nothing (cp_async16() in core/cuda_device.cuh) it has a
 * predicate and asks for no memory without it, wherever its address lies. Else it has a size, bit 82, and whether it
 * looks at the address for a size of zero nobody says.
 */
function copiesOfAnySize(code) {
  let count = 0;
  for (let at = 0; at < code.length; at += 16)
    if ((code.readUInt16LE(at) & 0x1ff) === 0x1ae && (code[at + 10] & 4) !== 0) ++count;
  return count;
}
