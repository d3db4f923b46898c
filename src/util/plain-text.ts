// A line end, an escape sequence or a change of direction could pass for something else on a
// terminal or in a log.
const ODD = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * What another host has said, as text of one line for people: at most `limit` characters, and
 * nothing in it that a terminal would obey.
 */
export function plainText(text: string, limit: number): string {
  const shown = text.length <= limit ? text : `${text.slice(0, limit - 1)}…`;
  return shown.replaceAll(/[\t\r\n]+/g, ' ').replaceAll(ODD, '?');
}
