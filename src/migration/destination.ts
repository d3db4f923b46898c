import type { Transport } from '../channel/types.js';
import type { DiskServerAddress, LaunchSpec, RamServerAddress } from '../domain/launch-spec.js';
import type { DataProbe, IncomingDomain, LoadedGuest } from '../domain/types.js';
import type { DestinationContext } from './destination-context.js';
import type { CommitOutcome } from './peer.js';
import type { ArrivalDomains } from './prepare-gate.js';
import type { SourcePeer } from './source-peer.js';

/**
 * The destination's half of a migration, one method for each thing the source asks, in the order of
 * the wire. `context.step` runs each body once, however often the source asks, and removes
 * everything when one fails.
 *
 * On any error before the handover nothing is left here; after it the guest is this host's.
 */
export class Destination {
  readonly #domains: ArrivalDomains;
  readonly #source: SourcePeer;
  readonly #context: DestinationContext;
  #incoming!: IncomingDomain;

  constructor(domains: ArrivalDomains, source: SourcePeer, context: DestinationContext) {
    this.#domains = domains;
    this.#source = source;
    this.#context = context;
  }

  /** Goes on with what an earlier life of the agent has made; nothing where nothing is left. */
  async recover(incoming: IncomingDomain | undefined): Promise<void> {
    await this.#context.recover(incoming);
    // Where the recovery has removed everything, no step begins any more.
    if (!incoming || this.#context.settled) return;
    this.#incoming = incoming;
    await this.#context.step('prepare', undefined, async () => {});
  }

  /**
   * Seed steps 1 and 2: proves the way back, makes the images, starts QEMU with `-incoming defer`.
   */
  prepare(launchSpec: LaunchSpec): Promise<void> {
    return this.#context.step('prepare', 'prepare', async (signal) => {
      await this.#source.prove(this.#context.state, { signal });
      const request = this.#context.incomingRequest(launchSpec);
      this.#incoming = await this.#domains.startIncoming(request, { signal });
      this.#context.holds(this.#incoming);
    });
  }

  /** A port for the source to reach, before it chooses how the bytes are to travel. */
  openProbe(): Promise<DataProbe> {
    return this.#context.during((signal) => this.#domains.openProbe({ signal }));
  }

  /** Seed step 3: QEMU's NBD server, on a port found here, one export for each mirrored disk. */
  exportDisks(transport: Transport): Promise<DiskServerAddress> {
    return this.#context.step('exportDisks', 'mirror', (signal) =>
      this.#incoming.exportDisks({ signal, transport }),
    );
  }

  /**
   * Seed steps 6 and 5: `migrate-incoming`; QEMU waits for the RAM at the place that is answered.
   * RAM that broke off is awaited by another QEMU on the same images.
   */
  acceptRam(attempt: number, transport: Transport): Promise<RamServerAddress> {
    return this.#context.step(`acceptRam ${attempt}`, 'precopy', (signal) =>
      this.#incoming.acceptRam({ signal, attempt, transport }),
    );
  }

  /** Resolves when the guest is loaded and paused here: the destination's vote. */
  awaitLoaded(attempt: number): Promise<LoadedGuest> {
    const name = `awaitLoaded ${attempt}`;
    return this.#context.stepThatMayBreak(name, 'RAM_FAILED', async (signal) => {
      const guest = await this.#incoming.loaded({ signal });
      this.#context.enter('switchover');
      await this.#context.loaded({ ...guest, attempt });
      return guest;
    });
  }

  /**
   * Seed step 7: the source has given the guest up; it becomes this host's in writing and is
   * resumed.
   */
  commit(guest: { readonly paused: boolean }): Promise<CommitOutcome> {
    return this.#context.take(guest);
  }

  /**
   * The source gives the migration up: everything made here goes, unless the guest is already ours.
   */
  abort(): Promise<void> {
    return this.#context.abort();
  }
}
