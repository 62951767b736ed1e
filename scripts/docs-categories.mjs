// A TypeDoc plugin: sorts what the package exports by the folder that it comes from, so that the pages read like
// lib/index.ts; functions of the addon that have no words of their own are referred to where their contracts stand.
import { Comment, CommentTag, Converter } from 'typedoc';

const categories = [
  [/^lib\/(device|errors|lifetime|package|machine\/|hub\/|addon\/cuda-probe)/u, 'Devices and errors'],
  [/^lib\/(addon|files)\//u, 'Files and the native addon'],
  [/^lib\/config\//u, 'Configuration'],
  [/^lib\/text\//u, 'Names and text'],
  [/^lib\/(banks|semantic)\//u, 'Banks and loss'],
  [/^lib\/models\//u, 'Students, teachers, encoders'],
  [/^lib\/data\//u, 'Images'],
  [/^lib\/(train\/|runs\/|stall)/u, 'Training'],
  [/^lib\/predict\//u, 'A student at work'],
  [/^lib\/dense\//u, 'Segmentation and detection'],
  [/^lib\/(evaluate|export|report)\//u, 'Evaluation, reports and export'],
];

const words = (text) => [{ kind: 'text', text }];

export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const reflection of project.children ?? []) {
      const file = project.getSymbolIdFromReflection(reflection)?.packagePath ?? '';
      const [, title] = categories.find(([pattern]) => pattern.test(file)) ?? [];
      if (title === undefined)
        throw new Error(`${reflection.name} of ${file} has no category in scripts/docs-categories.mjs`);
      for (const one of reflection.signatures ?? [reflection]) {
        one.comment ??= new Comment();
        one.comment.blockTags.push(new CommentTag('@category', words(title)));
      }
      if (reflection.name !== 'NativeAddon') continue;
      for (const signature of reflection.children.flatMap((child) => child.signatures ?? []))
        signature.comment ??= new Comment(words('See native/engine.h.'));
    }
  });
}
