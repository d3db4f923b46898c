import { spawn } from 'node:child_process';
import { withTimeout } from '../util/linked-signal.js';
import { childEnvironment } from './environment.js';
import { describeExit, ProcessError } from './errors.js';

/** How to run a short program. */
export interface RunOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds after which it is killed. */
  readonly limitMs: number;
  /** Variables besides PATH and LANG. */
  readonly env?: Readonly<Record<string, string>>;
  /** A program, with its arguments, that becomes this one when it has set it up. */
  readonly through?: readonly string[];
}

/** Most output kept of a program, per stream. */
const OUTPUT_LIMIT_BYTES = 1024 * 1024;

/**
 * Runs a program to its end without a shell and returns what it printed on stdout. Rejects with
 * ProcessError if it cannot be started, fails, or passes the limit, and with the signal's reason on
 * abort; the program is gone by then.
 */
export async function run(
  command: string,
  argv: readonly string[],
  options: RunOptions,
): Promise<string> {
  const fail = (what: string, details: object = {}) =>
    new ProcessError(`${command} ${argv[0] ?? ''} ${what}.`, { program: command, ...details });
  using limit = withTimeout(options.signal, options.limitMs, () =>
    fail(`did not end within ${options.limitMs} ms`),
  );
  limit.signal.throwIfAborted();
  const [program = command, ...rest] = [...(options.through ?? []), command, ...argv];
  const child = spawn(program, rest, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: childEnvironment(options.env),
  });
  const onAbort = () => child.kill('SIGKILL');
  limit.signal.addEventListener('abort', onAbort, { once: true });
  try {
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    const { code, signal } = await new Promise<{ code: number | null; signal: string | null }>(
      (resolve, reject) => {
        child.once('error', (cause) => reject(fail('could not be started', { cause })));
        child.once('close', (code, signal) => resolve({ code, signal }));
      },
    );
    limit.signal.throwIfAborted();
    if (code === 0) return stdout();
    const exit = { code: code ?? undefined, signal: signal ?? undefined };
    const output = stderr().trim();
    throw fail(`${describeExit(exit)}: ${output}`, { exit, output });
  } finally {
    limit.signal.removeEventListener('abort', onAbort);
  }
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  stream.on('data', (part: Buffer) => {
    sizeBytes += part.length;
    if (sizeBytes <= OUTPUT_LIMIT_BYTES) parts.push(part);
  });
  return () => Buffer.concat(parts).toString('utf8');
}
