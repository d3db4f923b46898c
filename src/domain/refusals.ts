import { type Facts, ReasonedError, type Side, type Violation } from '../util/reasoned-error.js';
import { REASONS, type Reason } from '../util/reasons.js';
import { DomainError } from './errors.js';

/** Gathers everything that speaks against a request, so that all of it is told at once. */
export class Refusals {
  readonly #violations: Violation[] = [];
  #facts: Facts = {};
  /** What to do, where a check has said it better than its reason does. */
  readonly #hints: string[] = [];

  get empty(): boolean {
    return this.#violations.length === 0;
  }

  /** Adds one. `subject` says which field or thing; the message is a clause without a full stop. */
  add(reason: Reason, subject: string, message: string, facts: Facts = {}): void {
    if (this.#violations.length === 0) this.#facts = facts;
    this.#violations.push({ reason, subject, message });
  }

  /**
   * Runs a check; what it throws for a reason is added, and undefined returned. Other errors pass.
   */
  async check<T>(subject: string, work: () => Promise<T> | T): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ReasonedError)) throw error;
      this.#advise(error.hint);
      this.add(error.reason, subject, error.message.replace(/\.$/, ''), error.facts);
      return undefined;
    }
  }

  /** The first violation has its hint in any case: that of its reason where no other was given. */
  #advise(hint: string | undefined): void {
    if (hint === undefined) return;
    const [first] = this.#violations;
    if (first && this.#hints.length === 0) this.#hints.push(REASONS[first.reason].hint);
    this.#hints.push(hint);
  }

  /** @throws DomainError with all violations, its reason the first one's, if there are any */
  throwIfAny(what: string, side?: Side): void {
    if (this.#violations.length > 0) throw this.error(what, side);
  }

  /** The error that tells everything. */
  error(what: string, side?: Side): DomainError {
    const messages = this.#violations.map(({ message }) => message).join('; ');
    return new DomainError(this.#violations[0]?.reason ?? 'INTERNAL', `${what}: ${messages}.`, {
      violations: this.#violations,
      facts: this.#facts,
      ...(this.#hints.length > 0 ? { hint: [...new Set(this.#hints)].join(' ') } : {}),
      ...(side === undefined ? {} : { side }),
    });
  }
}
