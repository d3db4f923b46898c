/** Where programs are looked for when this process has no PATH of its own. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The environment of every program that is started: PATH, and the language that its messages are
 * read in. What else this process has in its own may be a secret, or change what the program does.
 */
export function childEnvironment(
  more: Readonly<Record<string, string>> = {},
): Record<string, string> {
  return { PATH: process.env['PATH'] || DEFAULT_PATH, LANG: 'C', ...more };
}
