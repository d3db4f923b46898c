import type { QmpClient } from '../qmp/client.js';
import type { EventListener } from '../qmp/event-listener.js';
import type { RunState } from '../qmp/types.gen.js';
import { withDeadlineAfter } from '../util/linked-signal.js';
import { DomainError } from './errors.js';
import { type ReportProblem, STEP_LIMIT_MS } from './faults.js';
import type { QemuRamReceive } from './ram-receive.js';
import { isLive } from './resume-source.js';
import type { LoadedGuest, WaitOptions } from './types.js';
import { yankStalled } from './yank.js';

/** What it takes to see a guest loaded. */
export interface GuestLoad {
  readonly qmp: QmpClient;
  /** Armed before the stream began. */
  readonly events: EventListener<'MIGRATION'>;
  /** Undefined where no RAM was prepared for. */
  readonly ram: Promise<QemuRamReceive> | undefined;
  /** What the QEMUs that took the RAM before said when they could not load it. */
  readonly failures: string[];
  /** Ends everybody else's way to the disks. */
  closeDisks(): Promise<void>;
  /** Storage that each new image takes now, by disk id. */
  allocated(): Promise<Readonly<Record<string, number>>>;
  readonly report: ReportProblem;
}

/** As many QEMUs must have failed in the same words before those are believed. */
const TRIES = 3;

const STEP = { limitMs: STEP_LIMIT_MS };

/**
 * Resolves when the guest is loaded and paused and nobody can write to its disks any more. Without
 * a stream it may take for ever, after one no longer than a step.
 *
 * @throws DomainError `VMSTATE_INCOMPATIBLE`, `RAM_FAILED`, `STALLED`
 */
export async function loadGuest(load: GuestLoad, options: WaitOptions): Promise<LoadedGuest> {
  await waitUntilCompleted(load, options);
  const [{ status }, allocatedBytes] = await Promise.all([
    load.qmp.execute('query-status', {}, { ...STEP, ...options }),
    load.allocated(),
    load.closeDisks(),
  ]);
  // A guest that QEMU still takes in would start by itself at the end, if it were told to run now.
  if (status === 'inmigrate' || isLive(status)) throw wrongState('loaded', status);
  return { allocatedBytes };
}

/** The error for a guest in another state than its QEMU's answers allow. */
export function wrongState(wanted: string, status: RunState): DomainError {
  const message = `The guest is ${status} where it should have been ${wanted}.`;
  return new DomainError('INTERNAL', message, {
    side: 'destination',
    facts: { runstate: status },
  });
}

async function waitUntilCompleted(load: GuestLoad, options: WaitOptions): Promise<void> {
  const { qmp, events } = load;
  const streamOver = streamEnd(load);
  using limit = withDeadlineAfter(streamOver, STEP_LIMIT_MS, options.signal, stalled);
  try {
    let { status } = await qmp.execute('query-migrate', {}, { ...STEP, signal: limit.signal });
    const broken = (await load.ram)?.broken ?? new Promise<never>(() => undefined);
    while (status !== 'completed') {
      if (status === 'failed' || status === 'cancelled') throw await loadFailure(load);
      status = (await Promise.race([events.next(limit), broken])).data.status;
    }
  } catch (error) {
    // Whatever QEMU waits for will not come: its end must not depend on that.
    if (limit.signal.aborted) {
      const wish = { nodes: [], migration: true };
      yankStalled(qmp, wish).catch((problem) => load.report('cut the RAM stream', problem));
    }
    throw error;
  }
}

async function streamEnd({ ram }: GuestLoad): Promise<void> {
  // Without a stream there is nothing that could end.
  await ((await ram)?.over ?? new Promise<never>(() => undefined));
}

/**
 * QEMU's own words do not tell a broken stream from one that it cannot understand. What carries the
 * stream knows, where it goes through this agent. Where it goes from QEMU to QEMU, a stream that
 * breaks does so once; one that QEMU cannot understand fails each time, and in the same words.
 */
async function loadFailure({ qmp, ram, failures }: GuestLoad): Promise<DomainError> {
  const info = await qmp.execute('query-migrate', {}, STEP);
  const description = info['error-desc'] ?? 'QEMU did not say why';
  const again = failures.length >= TRIES - 1 && failures.every((one) => one === description);
  failures.push(description);
  const broken = (await ram)?.streamEnded ?? !again;
  return new DomainError(
    broken ? 'RAM_FAILED' : 'VMSTATE_INCOMPATIBLE',
    `QEMU on the destination could not load the guest: ${description}`,
    { side: 'destination', facts: { qemu_error: description } },
  );
}

function stalled(): DomainError {
  return new DomainError(
    'STALLED',
    `QEMU on the destination did not load the guest within ${STEP_LIMIT_MS} ms after its last byte.`,
    { side: 'destination', facts: { limit_ms: STEP_LIMIT_MS } },
  );
}
