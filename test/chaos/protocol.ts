/*
 * What the driver and an agent under test say to each other. Orders come over Node's own channel,
 * while nothing happens; what the agent says, and the answers it waits for, go over two pipes that
 * it reads and writes synchronously: while it waits for an answer it does nothing else.
 */

/** The pipe on which an agent says what it does: one JSON object a line. */
export const NOTES_FD = 3;
/** The pipe on which the driver answers. */
export const ANSWERS_FD = 4;

/** One effect, by a name that is the same in every run, such as `qmp cont before`. */
export interface EffectName {
  readonly name: string;
  /** Counts the effects of this name in one run, from 1. */
  readonly nth: number;
}

/** What an agent does when it comes to an armed effect. */
export type Action =
  /** Stands still until the driver has answered. */
  | { readonly type: 'hold' }
  /** The call is not made, or its answer is thrown away: the caller hears that it got lost. */
  | { readonly type: 'lose' }
  /** The caller hears at once that the call got lost; it arrives all the same, later. */
  | { readonly type: 'late'; readonly delayMs: number }
  /** The call is made twice at once; the first answer counts. */
  | { readonly type: 'duplicate' }
  /** The call, or its answer, takes longer. */
  | { readonly type: 'delay'; readonly delayMs: number }
  /** The operation on the journal's file fails. */
  | { readonly type: 'fail'; readonly code: 'EIO' | 'ENOSPC' };

/** An effect at which something is to happen. */
export interface Arm extends EffectName {
  readonly action: Action;
}

/** A fault of the disks that the next incoming QEMU gets. */
export type DiskFault =
  /** From the nth write on every write fails. */
  | { readonly type: 'errors'; readonly errno: number; readonly fromWrite: number }
  /** Every flush fails. */
  | { readonly type: 'flush-errors'; readonly errno: number }
  | { readonly type: 'slow'; readonly operationsPerSecond: number };

/** An order of the driver. Each is confirmed by a note. */
export interface Order {
  readonly id: number;
  readonly arms: readonly Arm[];
  readonly disks: DiskFault | undefined;
  /** The most that RAM is sent with, in bytes per second, whatever the agent says; 0 is no limit. */
  readonly ramBandwidth: number;
}

/** What an agent says. */
export type Note =
  | { readonly type: 'ready'; readonly epochMs: number }
  | { readonly type: 'ordered'; readonly id: number }
  | {
      readonly type: 'effect';
      readonly name: string;
      readonly nth: number;
      /** Milliseconds of the wall clock. */
      readonly atMs: number;
      /** True when the agent came to an armed effect; it stands still if that was a hold. */
      readonly armed: boolean;
      /** The agent stands still until the question of this number has been answered. */
      readonly question: number | undefined;
      /** What was said, as far as a reader of the trace needs it. */
      readonly detail: unknown;
    }
  /** An event or a record of the handover, as in the model. */
  | { readonly type: 'label'; readonly migrationId: string; readonly label: string }
  /** Asks at which port of the driver this port of `host` can be reached. Waits for the answer. */
  | {
      readonly type: 'route';
      readonly question: number;
      readonly host: string;
      readonly port: number;
      readonly traffic: 'ram' | 'nbd';
    };

/** The answer to a hold or to a route, whose number it bears: one may come that nobody waits for. */
export interface Answer {
  readonly question: number;
  readonly port?: number;
}

/** What an agent under test is told when it starts, in the environment variable `DROVER_CHAOS`. */
export interface AgentSetup {
  /** What stands before `/etc`, `/proc` and the like where the facts about the machine are read. */
  readonly root: string;
  /** The folder for the consoles of all QEMUs of this host. */
  readonly consoles: string;
}
