/** QEMU refused a command. `errorClass` is QEMU's; decide by it and by state, never by the text. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  readonly command: string;
  readonly errorClass: string;
  /** QEMU's own text, for people only. */
  readonly description: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.command = command;
    this.errorClass = errorClass;
    this.description = description;
  }
}

/**
 * The monitor connection is gone. Whether QEMU lives is a question for the process, not for this
 * error.
 */
export class QmpClosedError extends Error {
  override readonly name = 'QmpClosedError';
  /** The command that was in flight, if any: it may or may not have been executed. */
  readonly command: string | undefined;

  constructor(
    message: string,
    options: { readonly command?: string; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.command = options.command;
  }
}

/**
 * QEMU did not answer in time. The command may still be executed later; its late answer is ignored.
 */
export class QmpTimeoutError extends Error {
  override readonly name = 'QmpTimeoutError';
  readonly waitedFor: string;
  readonly limitMs: number;

  constructor(waitedFor: string, limitMs: number) {
    super(`QEMU did not give ${waitedFor} within ${limitMs} ms.`);
    this.waitedFor = waitedFor;
    this.limitMs = limitMs;
  }
}

/**
 * QEMU sent something that is not QMP. The connection is closed, because nothing after it can be
 * trusted.
 */
export class QmpProtocolError extends Error {
  override readonly name = 'QmpProtocolError';
}
