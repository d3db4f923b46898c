/** How text may be dressed up. */
export interface Style {
  /** ANSI colours may be used. */
  readonly colors: boolean;
  /** Characters beyond ASCII may be used. */
  readonly unicode: boolean;
}

/** Neither colours nor anything beyond ASCII. */
export const PLAIN: Style = { colors: false, unicode: false };

const SGR = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const;
export type Paint = keyof typeof SGR;

/** Colours a text, where the style has colours. */
export function paint(style: Style, how: Paint, text: string): string {
  return style.colors && text ? `\x1b[${SGR[how]}m${text}\x1b[0m` : text;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: ESC is what makes it a colour.
const SEQUENCES = /\x1b\[[0-9;]*m/g;

/** How many columns a text takes. What this program prints is one column a character. */
export function widthOf(text: string): number {
  return text.replaceAll(SEQUENCES, '').length;
}

/** Cuts a text without colours to `width` columns and shows that it was cut. */
export function shorten(text: string, width: number, style: Style): string {
  if (text.length <= width) return text;
  const mark = style.unicode ? '…' : '~';
  return width < 1 ? '' : `${text.slice(0, width - 1)}${mark}`;
}

/** A stream that text is written to; a terminal where `isTTY` is set. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  on?(event: 'resize', listener: () => void): unknown;
  off?(event: 'resize', listener: () => void): unknown;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Whether the stream is a terminal on which lines can be rewritten. */
export function canRedraw(stream: TextStream, env: Environment): boolean {
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}

/**
 * What the stream can show. Colours only on a terminal, not with TERM=dumb and not where NO_COLOR
 * is set to anything; ASCII only where the locale says so.
 */
export function styleOf(stream: TextStream, env: Environment): Style {
  const locale = env['LC_ALL'] || env['LC_CTYPE'] || env['LANG'] || '';
  return {
    colors: canRedraw(stream, env) && !env['NO_COLOR'],
    unicode: env['TERM'] !== 'dumb' && (locale === '' || /utf-?8/i.test(locale)),
  };
}
