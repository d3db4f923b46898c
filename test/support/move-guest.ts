import type { Transport } from '../../src/channel/types.js';
import type { LoadedGuest, Mirrors, RamSend } from '../../src/domain/types.js';
import type { Actor, QemuStage } from './qemu-stage.js';

/** The moments of one move, in milliseconds after the guest's pause. */
export interface MoveParts {
  readonly settledMs: number;
  readonly completedMs: number;
  readonly loadedMs: number;
  readonly resumedMs: number;
}

/** Called at the moments of one move. What a hook throws ends the move as an error there would. */
export type MoveHooks = Partial<
  Record<'mirroring' | 'ready' | 'precopy' | 'paused' | 'settled' | 'loaded', () => unknown>
> & {
  /** Default: direct. What is cut by a test goes as a stream. */
  readonly transport?: Transport;
  /** Gets the promise that the destination votes with. */
  readonly onLoading?: (loading: Promise<LoadedGuest>) => void;
  /** Bytes per second; slow enough lets a test act before a phase is over. */
  readonly mirrorBandwidth?: number;
  readonly ramBandwidth?: number;
};

/**
 * The flow of a migration without agents. Whatever is thrown in a hook ends it as an error would.
 */
export async function moveGuest(
  stage: QemuStage,
  source: Actor,
  twin: Actor,
  hooks: MoveHooks = {},
): Promise<MoveParts> {
  const signal = AbortSignal.timeout(20_000);
  const { transport = 'direct' } = hooks;
  const domain = stage.domain(source);
  const launchSpec = await domain.launchSpec({ signal });
  await using incoming = stage.incoming(twin, launchSpec);
  const server = await incoming.exportDisks({ signal, transport });
  await using mirrors: Mirrors = await domain.mirror(
    launchSpec.disks,
    server,
    { downtimeLimitMs: 300, maxBandwidth: hooks.mirrorBandwidth ?? 0 },
    { signal, fresh: false },
  );
  await hooks.mirroring?.();
  await mirrors.ready({ signal });
  await hooks.ready?.();
  await mirrors.activate({ signal });
  const place = await incoming.acceptRam({ signal, transport });
  const loading = incoming.loaded({ signal });
  loading.catch(() => undefined);
  hooks.onLoading?.(loading);
  await using ram: RamSend = await domain.sendRam(
    place,
    { downtimeLimitMs: 300, maxBandwidth: hooks.ramBandwidth ?? 0 },
    { signal },
  );
  await hooks.precopy?.();
  await ram.allowPause();
  const pause = await ram.preSwitchover({ signal });
  const sinceMs = () => performance.now() - pause.stoppedAtUs / 1000;
  await hooks.paused?.();
  await mirrors.settle({ signal });
  await mirrors.detach();
  const settledMs = sinceMs();
  await hooks.settled?.();
  await ram.finish({ signal });
  const completedMs = sinceMs();
  await loading;
  const loadedMs = sinceMs();
  const guard = await ram.guard({ signal });
  if (!guard.fenced || !guard.settled) throw new Error(`The guard says ${JSON.stringify(guard)}.`);
  await hooks.loaded?.();
  await incoming.resume({ paused: pause.guestPaused }, { signal });
  const resumedMs = sinceMs();
  ram.release();
  await incoming.arrive();
  await domain.retire('there');
  return { settledMs, completedMs, loadedMs, resumedMs };
}
