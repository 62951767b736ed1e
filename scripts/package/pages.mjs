// The pages of the published package: README.md, docs/ and examples/, and its other texts.
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';

const texts = ['CHANGELOG.md', 'LICENSE', 'NOTICE'];

/** What README.md says of installing from a checkout, and what stands there in the package. */
const install = [
  /^Nothing is published yet\.[\s\S]*?Install both in your project:\n\n```sh\nnpm install .*\n/mu,
  'In your project (`@lgdistill/linux-x64`, the native addon, CPU and CUDA in one, comes with it):\n\n```sh\nnpm install --ignore-scripts lgdistill\n',
];

/** All of them by their path in the package, with their content. @param root the checkout */
export function packedPages(root) {
  const below = (folder, ending) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((name) => ending.test(name))
      .map((name) => posix.join(folder, name));
  const paths = ['README.md', ...texts, ...below('docs', /\.(?:md|svg|png)$/u), ...below('examples', /\.ts$/u)].sort();
  return new Map(
    paths.map((path) => {
      const content = readFileSync(join(root, path));
      return [path, path.endsWith('.md') ? pageOf(content.toString(), path, paths) : content];
    }),
  );
}

function pageOf(text, path, paths) {
  if (path !== 'README.md') return withoutDeadLinks(text, path, paths);
  if (!install[0].test(text))
    throw new Error('README.md no longer says how to install from a checkout: adapt scripts/package/pages.mjs');
  return withoutDeadLinks(text.replace(...install), path, paths);
}

/**
 * Of a link to a file that the package lacks, the words remain. @param path of the page @param paths of the files there
 * are
 */
export function withoutDeadLinks(text, path, paths) {
  return text.replaceAll(/^```[\s\S]*?^```$|\[([^\]]*)\]\(([^)\s]+)\)/gmu, (all, words, target) => {
    if (target === undefined || /^(?:[a-z]+:|#)/u.test(target)) return all;
    const file = posix.join(posix.dirname(path), target.split('#')[0]);
    return paths.some((one) => one === file || one.startsWith(`${file}/`)) ? all : words;
  });
}
