import { ReasonedError, type Side } from '../util/reasoned-error.js';
import { REASONS, type Reason } from '../util/reasons.js';
import type { Phase } from './phase.js';

/** Why a migration ended without the guest on the destination; the wire's `Failure`. */
export interface Failure {
  readonly reason: Reason;
  readonly message: string;
  readonly side: Side | undefined;
  readonly phase: Phase | undefined;
  readonly hint: string;
  readonly retryable: boolean;
  readonly metadata: Readonly<Record<string, string>>;
}

/** An error of the flow itself. */
export class MigrationError extends ReasonedError {}

/** Turns anything thrown into a failure; what has no reason of its own is a fault in Drover. */
export function toFailure(
  error: unknown,
  side: Side | undefined,
  phase: Phase | undefined,
): Failure {
  const reasoned = asReasoned(error);
  const rule = REASONS[reasoned.reason];
  return {
    reason: reasoned.reason,
    message: reasoned.message,
    side: reasoned.side ?? side,
    phase,
    hint: reasoned.hint ?? rule.hint,
    retryable: rule.retryable,
    metadata: Object.fromEntries(Object.entries(reasoned.facts).map(([k, v]) => [k, String(v)])),
  };
}

/** The error as one with a reason. */
export function asReasoned(error: unknown): ReasonedError {
  if (error instanceof ReasonedError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new MigrationError('INTERNAL', message, { cause: error });
}
