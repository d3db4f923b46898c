import { setTimeout as delay, setImmediate as yieldToOthers } from 'node:timers/promises';
import type { BlockJobInfo, JobInfo, JobStatus } from '../../../src/qmp/types.gen.js';
import { type Deferred, deferred } from '../../../src/util/deferred.js';
import { type BlockNode, isZero, readNode, writeNode } from './block-graph.js';
import { FakeQmpError } from './errors.js';

/** How a mirror was asked for. */
export interface MirrorOptions {
  readonly id: string;
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly autoDismiss: boolean;
  readonly writeBlocking: boolean;
  /** Bytes per second; 0 for no limit. */
  readonly speed: number;
}

/** Sends an event; resolves when planned faults at it are over. */
export type Emit = (event: string, data: Readonly<Record<string, unknown>>) => Promise<void>;

const CHUNK_BYTES = 64 * 1024;
/** QEMU looks once per such slice whether a write-blocking mirror has become synchronous. */
const SLICE_MS = 10;

/** No timer is set for longer: a parked job would need one of hours. */
const LONGEST_MS = 60_000;

/** One `blockdev-mirror` job, with QEMU's statuses and events in QEMU's order. */
export class MirrorJob {
  readonly options: MirrorOptions;
  status: JobStatus = 'created';
  error: string | undefined;
  activelySynced = false;
  #writeBlocking: boolean;
  #speed: number;
  readonly #emit: Emit;
  readonly #onGone: () => void;
  readonly #dirty = new Set<number>();
  #offset = 0;
  #length = 0;
  #ready = false;
  #ending: 'cancel' | 'finish' | undefined;
  #changed: Deferred<void> = deferred();

  /** `onGone` is called when the job has left QEMU's list. */
  constructor(options: MirrorOptions, emit: Emit, onGone: () => void) {
    this.options = options;
    this.#writeBlocking = options.writeBlocking;
    this.#speed = options.speed;
    this.#emit = emit;
    this.#onGone = onGone;
  }

  /** Announces itself; the copying goes on in the background. */
  async start(): Promise<void> {
    await this.#enter('created');
    await this.#enter('running');
    for (let chunk = 0; chunk * CHUNK_BYTES < this.options.source.sizeBytes; chunk++)
      this.#dirty.add(chunk);
    void this.#run().catch((error: NodeJS.ErrnoException) => {
      // The images were closed under it, because its QEMU died.
      if (error.code !== 'EBADF') throw error;
    });
  }

  /**
   * Writes for the guest: here, and on the target before it is acknowledged if the mirror is
   * write-blocking.
   */
  async guestWrite(offset: number, bytes: Buffer): Promise<void> {
    const { source, target } = this.options;
    writeNode(source, offset, bytes);
    if (this.status === 'concluded') return;
    const chunk = Math.floor(offset / CHUNK_BYTES);
    // A target that fails must not fail the guest's write: the chunk stays dirty and the copying
    // finds out.
    const written =
      this.#writeBlocking && !this.#dirty.has(chunk)
        ? await target.nbd?.write(offset, bytes).then(
            () => true,
            () => false,
          )
        : false;
    if (!written) this.#markDirty(chunk);
  }

  change(writeBlocking: boolean): void {
    this.#writeBlocking ||= writeBlocking;
    this.#notify();
  }

  /** Wakes a job that waits: a ready one looks around, one with a speed goes on with the new one. */
  setSpeed(speed: number): void {
    this.#speed = speed;
    this.#notify();
  }

  /** `force`: stop at once. Else, on a ready job: copy what is left, then end in success. */
  cancel(force: boolean): void {
    if (this.status === 'concluded') {
      throw new FakeQmpError(
        `Job '${this.options.id}' in state 'concluded' cannot accept command verb 'cancel'`,
      );
    }
    this.#ending = force || !this.#ready ? 'cancel' : 'finish';
    this.#notify();
  }

  async dismiss(): Promise<void> {
    if (this.status !== 'concluded') {
      throw new FakeQmpError(
        `Job '${this.options.id}' in state '${this.status}' cannot accept command verb 'dismiss'`,
      );
    }
    await this.#enter('null');
    this.#onGone();
  }

  /** QEMU drains all jobs when the guest stops, which shows as a short pause of each. */
  async blink(): Promise<void> {
    if (this.status !== 'ready' && this.status !== 'running') return;
    const before = this.status;
    await this.#enter(before === 'ready' ? 'standby' : 'paused');
    await this.#enter(before);
  }

  describe(): BlockJobInfo {
    return {
      type: 'mirror',
      device: this.options.id,
      len: this.#length,
      offset: this.#offset,
      busy: this.#dirty.size > 0,
      paused: false,
      speed: this.#speed,
      'io-status': 'ok',
      ready: this.status === 'ready',
      status: this.status,
      'auto-finalize': true,
      'auto-dismiss': this.options.autoDismiss,
      'actively-synced': this.activelySynced,
      ...(this.error === undefined ? {} : { error: this.error }),
    };
  }

  describeShort(): JobInfo {
    return {
      id: this.options.id,
      type: 'mirror',
      status: this.status,
      'current-progress': this.#offset,
      'total-progress': this.#length,
      ...(this.error === undefined ? {} : { error: this.error }),
    };
  }

  async #run(): Promise<void> {
    const { source, target } = this.options;
    if (source.sizeBytes !== target.sizeBytes) {
      return this.#conclude('Source and target image have different sizes');
    }
    this.#length = source.sizeBytes;
    for (;;) {
      if (this.#ending === 'cancel') return this.#conclude(undefined);
      const chunk = this.#dirty.values().next();
      if (!chunk.done) {
        if (!(await this.#copy(chunk.value))) return;
        continue;
      }
      if (!this.#ready) {
        this.#ready = true;
        await this.#enter('ready');
        await this.#emit('BLOCK_JOB_READY', this.#eventData());
        continue;
      }
      if (this.#ending === 'finish') {
        if (await this.#finish()) return;
        continue;
      }
      const changed = this.#changed.promise;
      if (this.#writeBlocking && !this.activelySynced) {
        await delay(SLICE_MS);
        this.activelySynced = this.#dirty.size === 0;
        continue;
      }
      await changed;
    }
  }

  async #copy(chunk: number): Promise<boolean> {
    const { source, target } = this.options;
    const offset = chunk * CHUNK_BYTES;
    const length = Math.min(CHUNK_BYTES, source.sizeBytes - offset);
    this.#dirty.delete(chunk);
    const bytes = readNode(source, offset, length);
    try {
      if (isZero(bytes)) await target.nbd?.zero(offset, length);
      else await target.nbd?.write(offset, bytes);
    } catch (error) {
      await this.#fail(error);
      return false;
    }
    this.#offset += length;
    await this.#keepSpeed(length);
    return true;
  }

  /** A job that is ready copies as fast as it can. A new speed counts from what was copied last. */
  async #keepSpeed(bytes: number): Promise<void> {
    const sinceMs = performance.now();
    for (;;) {
      const changed = this.#changed.promise;
      const limited = this.#speed > 0 && !this.#ready && this.#ending === undefined;
      const waitMs = limited ? sinceMs + (bytes / this.#speed) * 1000 - performance.now() : 0;
      if (waitMs <= 0) break;
      const over = new AbortController();
      const passed = delay(Math.min(waitMs, LONGEST_MS), undefined, { signal: over.signal });
      await Promise.race([passed.catch(() => undefined), changed]);
      over.abort();
    }
    await yieldToOthers();
  }

  /** False if a guest that still runs wrote meanwhile: that is copied first. */
  async #finish(): Promise<boolean> {
    try {
      await this.options.target.nbd?.flush();
    } catch (error) {
      await this.#fail(error);
      return true;
    }
    if (this.#dirty.size > 0) return false;
    this.activelySynced = true;
    await this.#enter('waiting');
    await this.#enter('pending');
    await this.#emit('BLOCK_JOB_COMPLETED', this.#eventData());
    await this.#end();
    return true;
  }

  async #fail(error: unknown): Promise<void> {
    await this.#emit('BLOCK_JOB_ERROR', {
      device: this.options.id,
      operation: 'write',
      action: 'report',
    });
    await this.#conclude(error instanceof Error ? error.message : String(error));
  }

  async #conclude(error: string | undefined): Promise<void> {
    this.error = error ?? 'Operation canceled';
    await this.#enter('aborting');
    if (error === undefined) await this.#emit('BLOCK_JOB_CANCELLED', this.#eventData());
    else await this.#emit('BLOCK_JOB_COMPLETED', { ...this.#eventData(), error });
    await this.#end();
  }

  async #end(): Promise<void> {
    await this.#enter('concluded');
    if (this.options.autoDismiss) await this.dismiss();
  }

  async #enter(status: JobStatus): Promise<void> {
    this.status = status;
    await this.#emit('JOB_STATUS_CHANGE', { id: this.options.id, status });
  }

  #eventData() {
    const { id } = this.options;
    return {
      device: id,
      len: this.#length,
      offset: this.#offset,
      speed: this.#speed,
      type: 'mirror',
    };
  }

  #markDirty(chunk: number): void {
    if (this.#dirty.has(chunk)) return;
    this.#dirty.add(chunk);
    if (this.#ready) this.#length += CHUNK_BYTES;
    this.#notify();
  }

  #notify(): void {
    const changed = this.#changed;
    this.#changed = deferred();
    changed.resolve();
  }
}
