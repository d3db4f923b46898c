import type { Exit } from './proc.js';

/** A program could not be started, failed, or took too long. */
export class ProcessError extends Error {
  override readonly name: string = 'ProcessError';
  readonly program: string;
  readonly exit: Exit | undefined;
  /** The last part of what it printed, for people only. */
  readonly output: string;

  constructor(
    message: string,
    details: {
      readonly program: string;
      readonly exit?: Exit;
      readonly output?: string;
      readonly cause?: unknown;
    },
  ) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    this.program = details.program;
    this.exit = details.exit;
    this.output = details.output ?? '';
  }
}

/** QEMU ended, or stayed silent, before its monitor answered. `output` is the end of its log. */
export class QemuStartError extends ProcessError {
  override readonly name = 'QemuStartError';
}

/** The process that answers on the monitor is not the one of the record. Nothing was done to it. */
export class QemuIdentityError extends Error {
  override readonly name = 'QemuIdentityError';
}

/** A unix socket path is longer than the kernel takes. */
export class SocketPathError extends Error {
  override readonly name = 'SocketPathError';
}

/** Words for how a process ended. */
export function describeExit(exit: Exit): string {
  if (exit.signal !== undefined) return `was ended by ${exit.signal}`;
  return exit.code === undefined ? 'ended' : `ended with exit code ${exit.code}`;
}
