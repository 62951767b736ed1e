/**
 * A text without the byte order mark that editors on Windows begin UTF-8 files with; neither JSON nor the first line of
 * a list has a place for it.
 */
export function withoutMark(text: string): string {
  return text.replace(/^\uFEFF/u, '');
}
