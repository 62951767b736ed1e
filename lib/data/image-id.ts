/** An image's id without the `./` before names that `tar c .` and `find .` write: `./a/b.jpg` and `a/b.jpg` are one image. */
export function plainId(id: string): string {
  return id.includes('./') ? id.replace(/(^|\/)(?:\.\/+)+/gu, '$1') : id;
}
