// What may be in the tarballs of the two packages, and what may not be in their package.json.

const main =
  /^(?:package\.json|README\.md|LICENSE|NOTICE|CHANGELOG\.md|docs\/[\w\/-]+\.(?:md|svg|png)|examples\/[\w-]+\.ts|dist\/cjs\/package\.json|dist\/report\/client\/\w+\.css|dist\/text\/lists\/[\w-]+\.txt|dist\/.+(?:\.js|\.cjs|\.d\.c?ts))$/u;
const addon = /^(?:package\.json|README\.md|LICENSE|NOTICE|lgdistill\.node)$/u;
const barred = ['scripts', 'devDependencies', 'gypfile', 'overrides', 'private'];

/**
 * Files of a tarball that do not belong there: tests, sources, maps, whatever else. @param names paths within the
 * package
 */
export function strayFiles(name, names) {
  const allowed = name === 'lgdistill' ? main : addon;
  return names.filter((path) => !allowed.test(path));
}

/** Fields that only a checkout has, and packages that are for building alone. */
export function strayFields(manifest) {
  const building = Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies }).filter((name) =>
    /^node-(?:addon-api|api-headers|gyp)$|^cmake-js$/u.test(name),
  );
  return [...barred.filter((field) => manifest[field] !== undefined), ...building];
}
