import { checkText } from '../arguments.js';
import { LgdError, readError, systemErrorCode } from '../errors.js';
import { withoutMark } from '../files/byte-order-mark.js';
import { readFile } from '../files/open.js';
import { suggestion } from './spelling.js';

/**
 * Prompt templates known by id; `{}` stands for the category's name. Averaging over several prompts makes a name's
 * embedding depend less on the wording of any one (prompt ensembling, Radford et al. 2021, section 3.1.4).
 */
export const templateSets: Readonly<Record<string, readonly string[]>> = {
  default: [
    'a photo of a {}.',
    'a photo of the {}.',
    'a close-up photo of a {}.',
    'a photo of a small {}.',
    'a photo of a large {}.',
    'a blurry photo of a {}.',
    'a drawing of a {}.',
    'a picture of one {} among other things.',
  ],
  single: ['a photo of a {}.'],
  none: ['{}'],
};

/**
 * Loads prompt templates.
 * @param source a set's id (`default`, `single`, `none`), a file with one template a line (blank lines and lines that
 *   start with # are skipped), or the templates
 * @returns at least one template, each with exactly one `{}`
 * @throws LgdError BAD_OPTION, FILE_NOT_FOUND
 */
export async function loadTemplates(source: string | readonly string[]): Promise<string[]> {
  // a hole is no template
  if (typeof source !== 'string')
    return checkTemplates(Array.isArray(source) ? Array.from(source as readonly string[]) : [], 'the array');
  const known = Object.hasOwn(templateSets, source) ? templateSets[source] : undefined;
  if (known !== undefined) return [...known];
  let text: string;
  try {
    text = await readFile(source, 'utf8');
  } catch (cause) {
    if (source.includes('{}')) {
      throw new LgdError('BAD_OPTION', 'a template stands where a set of templates is expected.', {
        option: 'templates',
        found: source,
        mend: 'Give an array of templates, or a file with one template a line',
        cause,
      });
    }
    if (systemErrorCode(cause) !== 'ENOENT') {
      throw readError(source, cause, { code: 'BAD_OPTION', option: 'templates', kind: 'the templates in ' });
    }
    throw new LgdError('FILE_NOT_FOUND', 'there is no set of templates and no file of this name.', {
      option: 'templates',
      found: source,
      allowed: `${Object.keys(templateSets).join(', ')}, or a file with one template a line`,
      mend: suggestion(source, Object.keys(templateSets)) ?? 'Check the path',
      cause,
    });
  }
  const lines = withoutMark(text)
    .split(/\r\n|\n|\r/u)
    .map((line) => line.trim());
  return checkTemplates(
    lines.filter((line) => line !== '' && !line.startsWith('#')),
    source,
  );
}

function checkTemplates(templates: readonly string[], where: string): string[] {
  if (templates.length === 0) {
    throw new LgdError('BAD_OPTION', `${where} has no templates.`, {
      option: 'templates',
      mend: 'Give at least one, such as "a photo of a {}."',
    });
  }
  templates.forEach((template, index) => {
    if (typeof template !== 'string' || template.split('{}').length !== 2) {
      throw new LgdError('BAD_OPTION', `template ${index + 1} of ${where} must have the placeholder {} exactly once.`, {
        option: 'templates',
        found: template,
        mend: 'Write {} where the name belongs, as in "a photo of a {}."',
      });
    }
  });
  return [...templates];
}

/** The prompt a template makes of a name. @throws LgdError BAD_OPTION where one of them is no text */
export function fillTemplate(template: string, name: string): string {
  for (const [option, found] of [
    ['template', template],
    ['name', name],
  ] as const)
    if (typeof found !== 'string') checkText(found, option, 'a text');
  // a function, because a replacement string would give "$&" and its kind a meaning
  return template.replace('{}', () => name);
}
