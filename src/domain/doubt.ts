import type { Reason } from '../util/reasons.js';

/** Why nobody may start or stop a domain here now. Kept in memory: journals are what lasts. */
export interface Doubt {
  readonly reason: Reason;
  /** A sentence that names the domain and the peer. */
  readonly message: string;
  readonly hint?: string;
  readonly facts?: Readonly<Record<string, string | number>>;
  /** It speaks against this copy and older ones only, not against one that comes later. */
  readonly copy?: Copy;
}

/** Which copy of a domain: that of the higher epoch counts, and within one of the generation. */
export interface Copy {
  readonly epoch: number;
  readonly generation: number;
}

/** True where one copy counts more than another. */
export function isNewer(one: Copy, other: Copy): boolean {
  return one.epoch === other.epoch ? one.generation > other.generation : one.epoch > other.epoch;
}
