import type { Migration_State } from '../gen/drover/v1/migration.js';

/** What `drover` exits with. Permanent: scripts decide by them. */
export const EXIT = {
  ok: 0,
  /** It was not done. A guest that was to be moved runs on its source. */
  failed: 1,
  /** The command line, a spec or a configuration file is wrong; nothing was tried. */
  usage: 2,
  /**
   * The agent cannot be reached or denies access; nothing was begun.
   */
  unreachable: 3,
  /** The migration was cancelled; the guest runs on its source. */
  cancelled: 4,
  /** It is not known which host owns the guest. */
  inDoubt: 5,
  /** Some of it was done. No command ends so yet. */
  remainder: 6,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/**
 * Ended by Ctrl-C or SIGTERM while watching, as shells report it: 128 and the number of the signal.
 */
export const EXIT_BY_SIGNAL = { SIGINT: 130, SIGTERM: 143 } as const;

const REASON_EXITS: ReadonlyMap<string, ExitCode> = new Map([
  ['REQUEST_INVALID', EXIT.usage],
  ['CONFIG_INVALID', EXIT.usage],
  ['SPEC_INVALID', EXIT.usage],
  ['AGENT_UNREACHABLE', EXIT.unreachable],
  ['PEER_UNREACHABLE', EXIT.unreachable],
  ['TLS_PEER_REJECTED', EXIT.unreachable],
  ['PERMISSION_DENIED', EXIT.unreachable],
  ['CANCELLED_BY', EXIT.cancelled],
  ['OWNERSHIP_UNKNOWN', EXIT.inDoubt],
  ['FENCE_UNPROVEN', EXIT.inDoubt],
]);

/** The exit code for the reason of an error. Reasons of later versions count as failures. */
export function exitOfReason(reason: string): ExitCode {
  return REASON_EXITS.get(reason) ?? EXIT.failed;
}

/** The exit code for the state in which the watching of a migration ended. */
export function exitOfState(state: Migration_State): ExitCode {
  switch (state) {
    case 'STATE_SUCCEEDED':
      return EXIT.ok;
    case 'STATE_CANCELLED':
      return EXIT.cancelled;
    case 'STATE_IN_DOUBT':
      return EXIT.inDoubt;
    default:
      return EXIT.failed;
  }
}
