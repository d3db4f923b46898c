import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { setTimeout as delay, setImmediate as yieldToOthers } from 'node:timers/promises';
import type { MigrationInfo, MigrationStatus, RunState } from '../../../src/qmp/types.gen.js';
import { type Deferred, deferred } from '../../../src/util/deferred.js';
import { FakeQmpError } from './errors.js';
import { FrameSocket } from './frames.js';
import {
  type DeviceState,
  isTerminal,
  type MigrationMachine,
  type Place,
  type RamKeys,
} from './migration-machine.js';
import { proofOf } from './nbd-client.js';

const CHUNK_BYTES = 64 * 1024;
const PAGE_BYTES = 4096;
const PASS_MS = 5;

class Cancelled extends Error {}
class ChannelError extends Error {}

/**
 * The source half of a fake migration: QEMU's statuses, events and self-resume, over a real socket.
 */
export class Outgoing {
  status: MigrationStatus = 'setup';
  error: string | undefined;
  readonly #machine: MigrationMachine;
  readonly #place: Place;
  readonly #keys: RamKeys;
  readonly #ram = createHash('sha256');
  #frames: FrameSocket | undefined;
  #stateBefore: RunState = 'running';
  #cancelled: Deferred<void> = deferred();
  #isCancelled = false;
  #continue: Deferred<void> = deferred();
  #sentBytes = 0;
  #pass = 0;
  readonly #startedMs = performance.now();
  #stoppedMs: number | undefined;
  #endedMs: number | undefined;

  constructor(machine: MigrationMachine, place: Place, keys: RamKeys) {
    this.#machine = machine;
    this.#place = place;
    this.#keys = keys;
  }

  get active(): boolean {
    return !isTerminal(this.status);
  }

  /** Announces itself; the rest goes on in the background. */
  async start(): Promise<void> {
    await this.#enter('setup');
    void this.#run();
  }

  async cancel(): Promise<void> {
    if (!this.active || this.status === 'cancelling') return;
    await this.#enter('cancelling');
    this.#isCancelled = true;
    this.#cancelled.resolve();
    this.#frames?.socket.destroy();
  }

  continue(state: MigrationStatus): void {
    if (this.status !== state) {
      throw new FakeQmpError(`Migration not in expected state: ${this.status}`);
    }
    this.#continue.resolve();
  }

  /** Breaks its connection, as `yank` does and as the death of the process does. */
  yank(): void {
    this.#frames?.socket.destroy();
  }

  describe(): MigrationInfo {
    const { status, error } = this;
    const problem = error === undefined ? {} : { 'error-desc': error };
    if (status === 'failed' || status === 'cancelled') return { status, ...problem };
    const endedMs = this.#endedMs ?? performance.now();
    return {
      status,
      ...problem,
      'total-time': Math.round(endedMs - this.#startedMs),
      'setup-time': 0,
      ...(status === 'completed'
        ? { downtime: Math.round(endedMs - (this.#stoppedMs ?? endedMs)) }
        : { 'expected-downtime': this.#machine.parameter('downtime-limit') }),
      ram: this.#describeRam(),
    };
  }

  #describeRam(): NonNullable<MigrationInfo['ram']> {
    const { ramBytes, passes } = this.#machine.options;
    const wantedBytes = ramBytes + (passes - 1) * CHUNK_BYTES;
    return {
      transferred: this.#sentBytes,
      remaining: Math.max(0, wantedBytes - this.#sentBytes),
      total: ramBytes,
      duplicate: 0,
      normal: Math.floor(this.#sentBytes / 4096),
      'normal-bytes': this.#sentBytes,
      'dirty-pages-rate': 0,
      mbps: 0,
      'dirty-sync-count': this.#pass,
      'postcopy-requests': 0,
      'page-size': 4096,
      'multifd-bytes': 0,
      'pages-per-second': 0,
      'precopy-bytes': this.#sentBytes,
      'downtime-bytes': 0,
      'postcopy-bytes': 0,
      'dirty-sync-missed-zero-copy': 0,
    };
  }

  async #run(): Promise<void> {
    try {
      this.#frames = await this.#connect();
      await this.#precopy(this.#frames);
      await this.#switchover();
      await this.#finish(this.#frames);
    } catch (error) {
      await this.#giveUp(error);
    } finally {
      this.#frames?.socket.destroy();
    }
  }

  async #connect(): Promise<FrameSocket> {
    const frames = await this.#open();
    const { client } = this.#keys;
    if (client) await frames.send({ identity: client.identity, proof: proofOf(client.key) });
    return frames;
  }

  async #open(): Promise<FrameSocket> {
    if ('socket' in this.#place) return new FrameSocket(this.#place.socket);
    const { path } = this.#place;
    const socket = connect(path);
    const frames = new FrameSocket(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', () =>
        reject(new ChannelError(`Failed to connect to '${path}': No such file or directory`)),
      );
    });
    return frames;
  }

  async #precopy(frames: FrameSocket): Promise<void> {
    const { ramBytes, passes } = this.#machine.options;
    await this.#nextPass();
    await this.#enter('active');
    await frames.send({ uuid: this.#machine.uuid });
    for (let left = ramBytes; left > 0; left -= CHUNK_BYTES) await this.#sendRam(frames, left);
    for (let pass = 1; pass < passes || this.#isHeld; pass++) {
      await this.#nextPass();
      await this.#sendRam(frames, CHUNK_BYTES);
      // A pass over what little is dirty takes a moment.
      if (pass >= passes)
        await Promise.race([delay(PASS_MS), this.#cancelled.promise, frames.closed]);
    }
  }

  /**
   * While what fits into the downtime is less than a page, the guest runs on; unless nothing is
   * dirty, as in one that does not run.
   */
  get #isHeld(): boolean {
    const bandwidth = this.#machine.parameter('avail-switchover-bandwidth');
    if (bandwidth === 0 || this.#machine.runState !== 'running') return false;
    return (bandwidth * this.#machine.parameter('downtime-limit')) / 1000 < PAGE_BYTES;
  }

  async #sendRam(frames: FrameSocket, leftBytes: number): Promise<void> {
    this.#assertNotCancelled();
    const bytes = Buffer.alloc(Math.min(CHUNK_BYTES, leftBytes), this.#sentBytes % 251);
    this.#ram.update(bytes);
    const sent = await Promise.race([frames.send({ ram: true }, bytes), this.#cancelled.promise]);
    this.#assertNotCancelled();
    if (sent !== true || frames.ended) throw new ChannelError('Channel error: Input/output error');
    this.#sentBytes += bytes.length;
    const limit = this.#machine.parameter('max-bandwidth');
    const pauseMs = limit > 0 ? (bytes.length / limit) * 1000 : 0;
    // A migration at a crawl must still hear of a cancel and of a dead peer, as QEMU does every 100
    // ms.
    if (pauseMs > 1) await Promise.race([delay(pauseMs), this.#cancelled.promise, frames.closed]);
    else await yieldToOthers();
  }

  async #switchover(): Promise<void> {
    this.#stateBefore = this.#machine.runState;
    this.#stoppedMs = performance.now();
    await this.#machine.stopGuest('finish-migrate');
    if (this.#machine.capability('pause-before-switchover')) {
      await this.#enter('pre-switchover');
      void this.#frames?.closed.then(() => {
        if (this.status === 'pre-switchover') this.error = 'Channel error: Input/output error';
      });
      await Promise.race([this.#continue.promise, this.#cancelled.promise]);
      this.#assertNotCancelled();
    }
    await this.#enter('device');
    await this.#nextPass();
  }

  async #finish(frames: FrameSocket): Promise<void> {
    const state: DeviceState = {
      runState: this.#stateBefore,
      guest: this.#machine.guestState(),
      ramSha256: this.#ram.digest('hex'),
    };
    if (!(await frames.send({ devices: state }))) this.#fail();
    if (this.#machine.capability('return-path')) {
      // Without the answer the source cannot know, and QEMU resumes the guest here when the way
      // back breaks.
      const answer = await Promise.race([frames.receive(), this.#cancelled.promise]);
      this.#assertNotCancelled();
      if (answer?.header['loaded'] !== true) this.#fail();
    }
    this.#endedMs = performance.now();
    this.#machine.setRunState('postmigrate');
    await this.#enter('completed');
  }

  #fail(): never {
    this.#assertNotCancelled();
    throw new ChannelError('Channel error: Input/output error');
  }

  /** The source resumes the guest by itself: nobody is asked. */
  async #giveUp(error: unknown): Promise<void> {
    const wasStopped = this.#stoppedMs !== undefined;
    const resume = async () => {
      if (!wasStopped) return;
      if (this.#stateBefore === 'running') await this.#machine.startGuest();
      else this.#machine.setRunState(this.#stateBefore);
    };
    this.error =
      error instanceof ChannelError ? error.message : 'Channel error: Input/output error';
    if (error instanceof Cancelled) {
      await resume();
      await this.#enter('cancelled');
    } else {
      await this.#enter('failed');
      await resume();
    }
  }

  async #nextPass(): Promise<void> {
    this.#pass++;
    if (this.#machine.capability('events')) {
      await this.#machine.emit('MIGRATION_PASS', { pass: this.#pass });
    }
  }

  async #enter(status: MigrationStatus): Promise<void> {
    this.status = status;
    if (this.#machine.capability('events')) await this.#machine.emit('MIGRATION', { status });
  }

  #assertNotCancelled(): void {
    if (this.#isCancelled) throw new Cancelled();
  }
}
