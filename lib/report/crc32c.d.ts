/** The half of crc-32 that its own types leave out. */
declare module 'crc-32/crc32c.js' {
  const crc32c: {
    /** CRC32C of bytes as a signed 32-bit number. */
    buf(bytes: Uint8Array): number;
  };
  export default crc32c;
}
