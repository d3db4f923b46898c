import { readFileSync } from 'node:fs';

/** The version of Drover, as in package.json. */
export function droverVersion(): string {
  // Two folders up from src/util as from dist/util.
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
