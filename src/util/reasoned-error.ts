import type { Reason } from './reasons.js';

/** Facts that travel with an error, by snake_case name with the unit last. */
export type Facts = Readonly<Record<string, string | number>>;

/** The side of a migration that an error belongs to. */
export type Side = 'source' | 'destination';

/** What may be said of an error besides its reason and its message. */
export interface ReasonedErrorOptions {
  readonly cause?: unknown;
  readonly facts?: Facts;
  readonly side?: Side;
  /** What to do; the default is the hint of the REASONS table. */
  readonly hint?: string;
  /** Several things that are wrong at once; the first one gives the error its reason. */
  readonly violations?: readonly Violation[];
}

/** One of several things that are wrong at once. */
export interface Violation {
  readonly reason: Reason;
  /** What it is about, for example `disks[1].size`. */
  readonly subject: string;
  readonly message: string;
}

/** An error with a stable reason code. Every error that may reach a caller is one of these. */
export class ReasonedError extends Error {
  readonly reason: Reason;
  readonly facts: Facts;
  readonly side: Side | undefined;
  readonly hint: string | undefined;
  readonly violations: readonly Violation[];

  constructor(reason: Reason, message: string, options: ReasonedErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.name = new.target.name;
    this.reason = reason;
    this.facts = options.facts ?? {};
    this.side = options.side;
    this.hint = options.hint;
    this.violations = options.violations ?? [];
  }
}
