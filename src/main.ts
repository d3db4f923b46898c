#!/usr/bin/env -S node --max-semi-space-size=2
// An agent waits more than it works, and no byte of a guest passes through its JavaScript: room for
// 48 MiB of what is young, as V8 would take it, is memory for nothing.
import { homedir } from 'node:os';
import { runCli } from './cli/program.js';

const DOUBT_PATIENCE_MS = 30_000;

/** Aborts on the first Ctrl-C or SIGTERM; a second one ends the process as usual. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => controller.abort(name));
  }
  return controller.signal;
}

// A reader that has gone away, such as `head`, is no reason for a stack trace.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.exitCode = await runCli(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  env: process.env,
  homeDirectory: homedir(),
  interruption,
  doubtPatienceMs: DOUBT_PATIENCE_MS,
  runAgent: async ({ configFile, onReady }) => {
    const { runAgent } = await import('./agent/run.js');
    await runAgent(configFile, onReady);
  },
});
