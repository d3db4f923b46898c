import { type Deferred, deferred } from '../../../src/util/deferred.js';
import { FakeQmpError } from './errors.js';

/** The part of a fake QEMU that faults act on. */
export interface FaultTarget {
  readonly incoming: boolean;
  /** Ends as if killed. */
  die(): void;
  /** Drops the connections of its monitors; it lives on. */
  dropMonitors(): void;
  /** Breaks the connection by which RAM leaves. */
  breakRam(): void;
}

/** Where in its life a fake QEMU misbehaves. */
export type FaultPoint =
  | { readonly command: string }
  | { readonly event: string; readonly status?: string }
  /** A write that arrives at its NBD server. */
  | { readonly nbd: 'write' };

/** What happens there. It may throw FakeQmpError, wait, or do something to the QEMU. */
export type FaultAction = (qemu: FaultTarget) => void | Promise<void>;

/** One planned misbehaviour. */
export interface Fault {
  readonly at: FaultPoint;
  /** Default: before. */
  readonly when?: 'before' | 'after';
  /** Only for the incoming (true) or the running (false) QEMU of this host. Default: both. */
  readonly incoming?: boolean;
  /** How often it strikes. Default: once. */
  readonly times?: number;
  readonly action: FaultAction;
}

/** The planned misbehaviours of all fake QEMUs of one host. */
export class Faults {
  #faults: { readonly fault: Fault; left: number }[] = [];

  add(fault: Fault): void {
    this.#faults.push({ fault, left: fault.times ?? 1 });
  }

  clear(): void {
    this.#faults = [];
  }

  /** Lets what is planned for this point happen. */
  async strike(qemu: FaultTarget, when: 'before' | 'after', point: FaultPoint): Promise<void> {
    for (const entry of this.#faults) {
      const { fault } = entry;
      if (entry.left === 0 || (fault.when ?? 'before') !== when) continue;
      if (fault.incoming !== undefined && fault.incoming !== qemu.incoming) continue;
      if (!matches(fault.at, point)) continue;
      entry.left--;
      await fault.action(qemu);
    }
  }
}

function matches(planned: FaultPoint, point: FaultPoint): boolean {
  if ('command' in planned) return 'command' in point && planned.command === point.command;
  if ('nbd' in planned) return 'nbd' in point;
  if (!('event' in point) || planned.event !== point.event) return false;
  return planned.status === undefined || planned.status === point.status;
}

/** The command is refused; at an NBD write, the write fails. */
export const refuse =
  (description: string, errorClass?: string): FaultAction =>
  () => {
    throw new FakeQmpError(description, errorClass);
  };

/** The process is killed. */
export const die: FaultAction = (qemu) => {
  qemu.die();
};

/** The monitor connections break; the process lives on. */
export const dropMonitors: FaultAction = (qemu) => {
  qemu.dropMonitors();
};

/**
 * Everything stops at this point until `release` is called. Out-of-band commands are still
 * answered.
 */
export function hold(): {
  readonly action: FaultAction;
  readonly reached: Promise<void>;
  release(): void;
} {
  const reached: Deferred<void> = deferred();
  const released: Deferred<void> = deferred();
  return {
    action: async () => {
      reached.resolve();
      await released.promise;
    },
    reached: reached.promise,
    release: () => released.resolve(),
  };
}
