import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder } from '../../scripts/guest/linux-guest.js';

const SOURCE = fileURLToPath(new URL('delay-line.c', import.meta.url));

/** Compiles the delay line where that has not been done, and answers where it is. */
export function buildDelayLine(): string {
  const folder = join(cacheFolder(), 'bench');
  const program = join(folder, 'delay-line');
  const isFresh = existsSync(program) && statSync(program).mtimeMs > statSync(SOURCE).mtimeMs;
  if (isFresh) return program;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${program}.${process.pid}`;
  execFileSync('gcc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-o', unfinished, SOURCE]);
  renameSync(unfinished, program);
  return program;
}
