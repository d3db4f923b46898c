import type { Transport } from '../channel/types.js';
import type { LaunchSpec } from '../domain/launch-spec.js';
import type { WaitOptions } from '../domain/types.js';
import type { AuditLog } from '../util/audit.js';
import { RateLimit } from '../util/rate-limit.js';
import type { ReasonedError } from '../util/reasoned-error.js';
import type { DestinationContext } from './destination-context.js';
import { MigrationError } from './errors.js';
import type { IngressAsk } from './ingress.js';
import { isTerminal } from './migration.js';
import type { PeerHandler, PeerHeader, PeerState, Prepared } from './peer.js';
import type { MigrationRegistry } from './registry.js';

/** What other hosts may ask of this one at once. */
export interface IncomingLimits {
  /** Migrations that arrive at once, in all. */
  readonly incoming: number;
  /** The same from one host. */
  readonly incomingPerPeer: number;
  /**
   * Prepares of one host within a minute: each writes a journal and looks at the pools, also where
   * it is refused.
   */
  readonly preparesPerMinute: number;
  /**
   * Milliseconds that an incoming migration may go without any progress: a further step, blocks of
   * its disks, bytes of its RAM. It is given up then, whatever its source says.
   */
  readonly leaseMs: number;
}

export const DEFAULT_INCOMING_LIMITS: IncomingLimits = {
  incoming: 64,
  incomingPerPeer: 32,
  preparesPerMinute: 240,
  leaseMs: 600_000,
};

const MINUTE_MS = 60_000;
const KNOWN_PEERS = 1_000;
/** How often leases are looked at, in parts of the lease. */
const LOOKS = 10;
/** How often the images that arrive are held against what was reserved, in milliseconds. */
const ROOM_LOOK_MS = 500;
/** Each takes a QEMU of its own; sources give up long before. */
const ATTEMPTS_LIMIT = 32;

const EXPORTED = 'exported';
/**
 * A source may have much to do before the RAM of this domain: asking for its share keeps the lease,
 * by half of it each time, but not for ever.
 */
const WAITS_LIMIT = 12;

/** What the limits are about. */
export interface LimitedTools {
  readonly host: string;
  readonly limits: IncomingLimits;
  readonly registry: MigrationRegistry;
  readonly incoming: PeerHandler & { find(migrationId: string): DestinationContext | undefined };
  readonly audit: AuditLog;
}

/** What has happened of one migration. */
interface Lease {
  readonly sourceHost: string;
  steps: string;
  /** How often it was renewed for a source that only waits. */
  waits: number;
  /** All of it when it was looked at last. */
  mark: string;
  renewedMs: number;
}

/**
 * Stands in front of the destination's half: refuses more migrations than may arrive at once, and
 * gives up those in which nothing happens any more. A source that answers every question and does
 * nothing else holds memory, disks and a port no longer than its lease.
 */
export class LimitedArrivals implements PeerHandler {
  readonly #tools: LimitedTools;
  readonly #prepares: RateLimit<undefined>;
  /** Sources of prepares that have not been answered, by migration. */
  readonly #beginning = new Map<string, string>();
  readonly #leases = new Map<string, Lease>();
  readonly #timers: readonly NodeJS.Timeout[];

  constructor(tools: LimitedTools) {
    this.#tools = tools;
    const perKey = tools.limits.preparesPerMinute;
    this.#prepares = new RateLimit({ perKey, windowMs: MINUTE_MS, keys: KNOWN_PEERS });
    const everyMs = Math.min(MINUTE_MS, tools.limits.leaseMs / LOOKS);
    this.#timers = [
      setInterval(() => void this.#look(), everyMs).unref(),
      setInterval(() => void this.#lookAtRoom(), ROOM_LOOK_MS).unref(),
    ];
  }

  /** @throws MigrationError `LIMIT_REACHED`, and whatever the destination's half throws */
  async prepare(header: PeerHeader, launchSpec: LaunchSpec): Promise<Prepared> {
    const { migrationId, sourceHost } = header;
    const { incoming } = this.#tools;
    const known = incoming.find(migrationId) || this.#beginning.has(migrationId);
    if (known) return await incoming.prepare(header, launchSpec);
    this.#admit(sourceHost);
    this.#beginning.set(migrationId, sourceHost);
    try {
      return await incoming.prepare(header, launchSpec);
    } finally {
      this.#beginning.delete(migrationId);
    }
  }

  probeData(header: PeerHeader) {
    return this.#tools.incoming.probeData(header);
  }

  async exportDisks(header: PeerHeader, transport: Transport) {
    const address = await this.#tools.incoming.exportDisks(header, transport);
    this.#step(header, EXPORTED);
    return address;
  }

  async acceptRam(header: PeerHeader, transport: Transport) {
    if (header.attempt > ATTEMPTS_LIMIT) {
      throw reached('attempts of one migration', ATTEMPTS_LIMIT, header.sourceHost);
    }
    const answer = await this.#tools.incoming.acceptRam(header, transport);
    this.#step(header, 'waiting for RAM');
    return answer;
  }

  async shareIngress(header: PeerHeader, ask: IngressAsk) {
    const answer = await this.#tools.incoming.shareIngress(header, ask);
    const lease = this.#lease(header.migrationId, header.sourceHost);
    const aged = performance.now() - lease.renewedMs > this.#tools.limits.leaseMs / 2;
    if (aged && lease.steps.includes(EXPORTED) && lease.waits < WAITS_LIMIT) {
      lease.waits += 1;
      lease.renewedMs = performance.now();
    }
    return answer;
  }

  awaitLoaded(header: PeerHeader, options: WaitOptions) {
    return this.#tools.incoming.awaitLoaded(header, options);
  }

  commit(header: PeerHeader, guest: { readonly paused: boolean }) {
    return this.#tools.incoming.commit(header, guest);
  }

  revoke(header: PeerHeader) {
    return this.#tools.incoming.revoke(header);
  }

  abort(header: PeerHeader) {
    return this.#tools.incoming.abort(header);
  }

  queryMigration(header: PeerHeader, own: PeerState) {
    return this.#tools.incoming.queryMigration(header, own);
  }

  sourceGone(header: PeerHeader) {
    return this.#tools.incoming.sourceGone(header);
  }

  /** Ends the look at leases and room. */
  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  #admit(sourceHost: string): void {
    const nowMs = performance.now();
    this.#prepares.sweep(nowMs);
    if (!this.#prepares.take(sourceHost, undefined, nowMs)) {
      const { preparesPerMinute } = this.#tools.limits;
      throw reached('limits.prepares_per_minute', preparesPerMinute, sourceHost);
    }
    const sources = new Map(this.#coming().map(([id, { lease }]) => [id, lease.sourceHost]));
    for (const [id, source] of this.#beginning) sources.set(id, source);
    const { incoming, incomingPerPeer } = this.#tools.limits;
    if (sources.size >= incoming) throw reached('limits.incoming', incoming, sourceHost);
    const own = [...sources.values()].filter((source) => source === sourceHost).length;
    if (own < incomingPerPeer) return;
    throw reached('limits.incoming_per_peer', incomingPerPeer, sourceHost);
  }

  /** The migrations that are on their way in, each with its lease. */
  #coming(): (readonly [string, { context: DestinationContext; lease: Lease }])[] {
    const { registry, incoming, host } = this.#tools;
    const found = registry
      .list('')
      .flatMap(({ migrationId, destinationHost, sourceHost, state }) => {
        if (destinationHost !== host || isTerminal(state)) return [];
        const context = incoming.find(migrationId);
        if (!context?.coming) return [];
        return [[migrationId, { context, lease: this.#lease(migrationId, sourceHost) }] as const];
      });
    const ids = new Set(found.map(([id]) => id));
    for (const id of this.#leases.keys()) if (!ids.has(id)) this.#leases.delete(id);
    return found;
  }

  #lease(migrationId: string, sourceHost: string): Lease {
    const renewedMs = performance.now();
    const fresh = { sourceHost, steps: '', waits: 0, mark: '', renewedMs };
    const lease = this.#leases.get(migrationId) ?? fresh;
    this.#leases.set(migrationId, lease);
    return lease;
  }

  /** A step counts once: a source cannot live on repeating it. */
  #step({ migrationId, sourceHost }: PeerHeader, name: string): void {
    const lease = this.#lease(migrationId, sourceHost);
    if (!lease.steps.includes(name)) lease.steps += `${name},`;
  }

  async #look(): Promise<void> {
    await Promise.all(
      this.#coming().map(async ([id, { context, lease }]) => {
        const written = await context.written().catch(() => undefined);
        const mark = `${lease.steps} ${written?.mark}`;
        if (mark !== lease.mark) {
          lease.mark = mark;
          lease.renewedMs = performance.now();
        } else if (performance.now() - lease.renewedMs >= this.#tools.limits.leaseMs) {
          await this.#expire(id, context, lease);
        }
      }),
    );
  }

  /** A source may write more than it has announced, and would fill the pool for all. */
  async #lookAtRoom(): Promise<void> {
    await Promise.all(
      this.#coming().map(async ([id, { context, lease }]) => {
        const written = await context.written().catch(() => undefined);
        if (written?.short) await this.#giveUp(id, context, lease, 'ROOM_EXCEEDED', written.short);
      }),
    );
  }

  async #expire(id: string, context: DestinationContext, lease: Lease): Promise<void> {
    const { leaseMs } = this.#tools.limits;
    const message = `Nothing has come from ${lease.sourceHost} for ${leaseMs / 1000} s.`;
    const facts = { limit: 'limits.lease_ms', limit_ms: leaseMs };
    const error = new MigrationError('STALLED', message, { side: 'source', facts });
    await this.#giveUp(id, context, lease, 'LEASE_EXPIRED', error);
  }

  async #giveUp(
    subject: string,
    context: DestinationContext,
    { sourceHost }: Lease,
    action: string,
    error: ReasonedError,
  ): Promise<void> {
    const { reason, message } = error;
    const caller = `host/${sourceHost}`;
    this.#tools.audit.record({ caller, action, decision: 'EVENT', reason, subject, message });
    await context.expire(error);
  }
}

function reached(limit: string, value: number, sourceHost: string): MigrationError {
  const message = `${sourceHost} has reached a limit of this host: ${limit} is ${value}.`;
  const facts = { limit, limit_value: value };
  return new MigrationError('LIMIT_REACHED', message, { side: 'destination', facts });
}
