import { join } from 'node:path';
import { type DeepPartial, DomainSpec } from '../../src/gen/drover/v1/domain.js';
import type { Migration, Migration_Transport } from '../../src/gen/drover/v1/migration.js';
import { parseDomainFile } from '../../src/spec/domain-file.js';
import { type DiskContent, readDisk } from '../../test/support/blocks.js';
import { Ledger } from '../../test/support/ledger.js';
import { SerialLog, type SerialSegment } from '../../test/support/serial-log.js';
import type { DemoHost } from './hosts.js';

const WAIT = { limitMs: 120_000 };

/**
 * A Linux guest that is busy in every way that counts, with two disks on different buses and
 * formats.
 */
export const BUSY_DOMAIN = `\
name: busy
memory: 192MiB
vcpus: 1
cpu: qemu64
machine: q35
accelerator: tcg
kernel: linux
kernel_arguments: >-
  drover.disks=2 drover.slots=2048 drover.write_ms=4 drover.ram_mib=24 drover.ram_rate=12
disks:
  - id: root
    size: 64MiB
    bus: virtio-blk
    format: raw
  - id: data
    size: 64MiB
    bus: virtio-scsi
    format: qcow2
serial: { type: file }
rng: true
`;

/** What one move came to. */
export interface Move {
  readonly migration: Migration;
  /**
   * Between the last heartbeat on the source and the first on the destination, as this process saw
   * them arrive.
   */
  readonly guestGapMs: number;
}

/** What a move is asked for with; the agent's defaults else. */
export interface MoveSettings {
  readonly downtimeLimitMs?: number;
  readonly transport?: Migration_Transport;
}

/** What was found when everything was counted. */
export interface Verdict {
  readonly ackedWrites: number;
  readonly heartbeats: number;
  /** Heartbeats that are missing, or came again. */
  readonly oddHeartbeats: number;
  readonly lostWrites: number;
  readonly doubleRun: boolean;
  /** Numbers that came a second time, and numbers that never came. */
  readonly repeats: number;
  readonly gaps: number;
  /** Everything that is wrong, in words; empty when nothing is. */
  readonly faults: readonly string[];
}

/** One guest and the record of all it printed, wherever it ran. */
export class BusyGuest implements Disposable {
  readonly #logs = new Map<string, SerialLog>();
  readonly #segments: SerialSegment[] = [];
  #host: DemoHost;

  private constructor(host: DemoHost) {
    this.#host = host;
  }

  /**
   * Creates the domain on a host and starts it; resolves when the guest works. Other domains must
   * be named `busy` as well.
   */
  static async start(host: DemoHost, yaml = BUSY_DOMAIN): Promise<BusyGuest> {
    const guest = new BusyGuest(host);
    const spec = parseDomainFile(yaml, 'busy.yaml');
    await host.client.domains.createDomain({
      spec: DomainSpec.fromPartial(spec as DeepPartial<DomainSpec>),
    });
    const { domain } = await host.client.domains.startDomain({ domain: 'busy' });
    const log = guest.#follow(host.name, domain?.serialPath ?? '');
    await log.waitForReady(WAIT);
    await log.waitForWrites(200, WAIT);
    return guest;
  }

  get host(): DemoHost {
    return this.#host;
  }

  /** Resolves when the guest has had some more writes acknowledged where it is. */
  async work(writes: number): Promise<void> {
    await this.#logs.get(this.#host.name)?.waitForWrites(writes, WAIT);
  }

  /** Resolves when it has written all of the memory that it works on. */
  async fillMemory(): Promise<void> {
    const isRound = (line: string) => line.startsWith('R ') || undefined;
    await this.#logs.get(this.#host.name)?.waitFor('round of memory', isRound, WAIT);
  }

  /** Moves it and waits until it has been heard of over there. */
  async move(
    to: DemoHost,
    onChange: (migration: Migration) => void = () => {},
    settings: MoveSettings = {},
  ): Promise<Move> {
    const from = this.#host;
    const serial = join(to.pool, '..', 'state', 'domains');
    const { migration: accepted } = await from.client.migrations.startMigration({
      domain: 'busy',
      destinationHost: to.name,
      ...settings,
    });
    const migrationId = accepted?.migrationId ?? '';
    // Followed before the guest arrives, so that its first line is stamped when it comes.
    const path = join(serial, accepted?.domainUuid ?? '', 'serial.log');
    let log = this.#logs.get(to.name);
    let last: Migration | undefined;
    for await (const { migration } of from.client.migrations.watchMigration({ migrationId })) {
      if (!migration) continue;
      last = migration;
      onChange(migration);
      // The folder is there once the incoming QEMU is.
      if (!log && migration.phase === 'PHASE_MIRROR') log = this.#follow(to.name, path);
    }
    if (last?.state !== 'STATE_SUCCEEDED' || !log) {
      throw new Error(`The migration did not succeed: ${last?.failure?.message ?? 'no answer'}`);
    }
    const before = log.lines.length;
    const ended = this.#logs.get(from.name)?.cut();
    if (ended) this.#segments.push(ended);
    this.#host = to;
    await log.waitForWrites(before === 0 ? 1 : 20, WAIT);
    return { migration: last, guestGapMs: this.#lastGap(log) };
  }

  /** Ends the guest and counts. */
  async judge(): Promise<Verdict> {
    const { client, pool, name } = this.#host;
    const { domain } = await client.domains.stopDomain({ domain: 'busy', force: true });
    const segment = this.#logs.get(name)?.cut();
    if (segment) this.#segments.push(segment);
    const ledger = new Ledger(this.#segments);
    const faults = ledger.clean ? [] : [ledger.describeFaults()];
    const strays = [...this.#logs.values()].flatMap((log) => log.cut().lines);
    if (strays.length > 0) faults.push(`${strays.length} lines where the guest was not any more`);
    let lostWrites = 0;
    for (const { id, format } of domain?.spec?.disks ?? []) {
      const path = join(pool, domain?.spec?.uuid ?? '', `${id}.${format}`);
      const content = await this.#read(path, format === 'qcow2' ? 'qcow2' : 'raw');
      const lost = ledger.lostWrites(content);
      lostWrites += lost.length;
      if (lost.length > 0) faults.push(`${id}: ${lost.length} acknowledged writes are missing`);
    }
    return {
      ackedWrites: ledger.ackedWrites,
      heartbeats: ledger.heartbeats,
      oddHeartbeats: [...ledger.gaps, ...ledger.repeats].filter(({ what }) => what === 'heartbeat')
        .length,
      lostWrites,
      doubleRun: ledger.repeats.length + strays.length > 0,
      repeats: ledger.repeats.length,
      gaps: ledger.gaps.length,
      faults,
    };
  }

  /**
   * Removes the domain, which was judged, from the host where it is and its tombstones from the
   * others.
   */
  async remove(hosts: readonly DemoHost[]): Promise<void> {
    // The folders that it follows go.
    this[Symbol.dispose]();
    for (const { name, client } of hosts) {
      const { domains } = await client.domains.listDomains({});
      if (domains.length === 0) continue;
      const tombstone = name !== this.#host.name;
      await client.domains.deleteDomain({ domain: 'busy', tombstone });
    }
  }

  [Symbol.dispose](): void {
    for (const log of this.#logs.values()) log[Symbol.dispose]();
  }

  #read(path: string, format: 'raw' | 'qcow2'): Promise<DiskContent> {
    return readDisk(path, { guest: 'linux', format, slots: 2048 });
  }

  #follow(host: string, path: string): SerialLog {
    const known = this.#logs.get(host);
    if (known) return known;
    const log = SerialLog.file(path, host);
    this.#logs.set(host, log);
    return log;
  }

  #lastGap(log: SerialLog): number {
    const current = log.segments.at(-1);
    const ledger = new Ledger(current ? [...this.#segments, current] : this.#segments);
    return ledger.steps.at(-1)?.hostGapMs ?? Number.NaN;
  }
}
