/** HTML from templates in which every value is escaped, so that names from users stay text. */

/** Markup that is safe to insert as it is. */
export class Html {
  constructor(readonly text: string) {}
}

type Value = Html | string | number | undefined | readonly Value[];

/** A template of markup: values are escaped, lists joined, undefined is nothing, and {@link Html} goes in as it is. */
export function html(strings: TemplateStringsArray, ...values: Value[]): Html {
  return new Html(strings.reduce((text, part, i) => text + render(values[i - 1]) + part));
}

function render(value: Value): string {
  if (value === undefined) return '';
  if (value instanceof Html) return value.text;
  if (typeof value === 'object') return value.map(render).join('');
  return escapeHtml(String(value));
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text for an element or a quoted attribute. */
function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/gu, (letter) => entities[letter]!);
}

/** JSON for a `<script type="application/json">` element, which only `</` could end. */
export function embedJson(value: unknown): Html {
  return new Html(JSON.stringify(value).replace(/</gu, '\\u003c'));
}
