// The pages of the API, into site/: npm run docs
/** @type {import('typedoc').TypeDocOptions} */
export default {
  entryPoints: ['lib/index.ts'],
  tsconfig: 'tsconfig.json',
  out: 'site',
  name: 'lgdistill',
  includeVersion: true,
  readme: 'README.md',
  plugin: ['./scripts/docs-categories.mjs'],
  categorizeByGroup: false,
  navigation: { includeCategories: true, includeGroups: false },
  excludePrivate: true,
  disableGit: true,
  disableSources: true,
  treatWarningsAsErrors: true,
  // paths: the README may name folders
  validation: { notExported: true, invalidLink: true, notDocumented: true, invalidPath: false },
  requiredToBeDocumented: ['Class', 'Interface', 'TypeAlias', 'Function', 'Variable', 'Enum'],
  intentionallyNotExported: ['schema'], // behind Config; configOptions() is its table
};
