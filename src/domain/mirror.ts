import type { QmpEvent } from '../qmp/event-listener.js';
import { type Deferred, deferred } from '../util/deferred.js';
import { DomainError } from './errors.js';
import type { DiskExport, DiskServerAddress, LaunchDisk } from './launch-spec.js';
import { imageNode, mirrorJob, targetNode } from './names.js';
import type { MirrorProgress } from './types.js';

/** The events that tell how a mirror job goes. */
export const MIRROR_EVENTS = [
  'BLOCK_JOB_READY',
  'BLOCK_JOB_COMPLETED',
  'BLOCK_JOB_CANCELLED',
  'BLOCK_JOB_ERROR',
  'JOB_STATUS_CHANGE',
] as const;

/** One of them. */
export type MirrorEvent = QmpEvent<(typeof MIRROR_EVENTS)[number]>;

/**
 * One mirror job as far as QEMU's events tell. Talks to nobody: `Mirrors` gives it the events of
 * its job.
 */
export class Mirror {
  readonly diskId: string;
  readonly exportName: string;
  /** Opens the destination's data door; empty where QEMU connects by itself. */
  readonly ticket: string;
  readonly job: string;
  /** The block node that is mirrored. */
  readonly image: string;
  /** The block node it writes to. */
  readonly target: string;
  /** Resolves when the job has concluded, however it ended. */
  readonly concluded: Promise<void>;
  readonly #ready: Deferred<void> = deferred();
  readonly #settled: Deferred<void> = deferred();
  readonly #concluded: Deferred<void> = deferred();
  #progress: MirrorProgress;
  #settling = false;
  #writeBlocking: boolean | undefined = false;
  #failed = false;
  #cause: unknown;
  #failedOperation: 'read' | 'write' | undefined;
  #verdict: { readonly error: string | undefined } | undefined;

  constructor(disk: LaunchDisk, { exportName, ticket }: DiskExport) {
    this.diskId = disk.diskId;
    this.exportName = exportName;
    this.ticket = ticket;
    this.job = mirrorJob(disk.diskId);
    this.image = imageNode(disk.diskId);
    this.target = targetNode(disk.diskId);
    this.concluded = this.#concluded.promise;
    this.#progress = {
      diskId: disk.diskId,
      totalBytes: disk.sizeBytes,
      transferredBytes: 0,
      remainingBytes: disk.sizeBytes,
      ready: false,
    };
    // Each is awaited in one phase only; a failure in another one is told by `settle` or by the
    // next wait.
    for (const { promise } of [this.#ready, this.#settled, this.#concluded]) {
      promise.catch(() => undefined);
    }
  }

  /** Resolves at BLOCK_JOB_READY; rejects with `MIRROR_FAILED` when the job ends before. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Resolves when the job has concluded because it was told to and without error; else rejects. */
  get settled(): Promise<void> {
    return this.#settled.promise;
  }

  get isSettling(): boolean {
    return this.#settling;
  }

  get isReady(): boolean {
    return this.#progress.ready;
  }

  /** True when it has failed, or nothing more will be heard of it. */
  get hasFailed(): boolean {
    return this.#failed;
  }

  /** True when the guest's writes wait for both images; undefined where nobody knows. */
  get writeBlocking(): boolean | undefined {
    return this.#writeBlocking;
  }

  get progress(): MirrorProgress {
    return this.#progress;
  }

  /** From now on the end of the job without error is what was asked for. */
  settle(): void {
    this.#settling = true;
  }

  /** The job is found as an earlier life of the agent has left it. */
  adopt(): void {
    this.#writeBlocking = undefined;
  }

  /** From now on the guest's writes wait for both images. */
  block(): void {
    this.#writeBlocking = true;
  }

  /** What carries the bytes has broken, which is why the job fails. */
  broke(cause: unknown): void {
    this.#cause ??= cause;
  }

  /** Takes QEMU's figures of the job. */
  observe(totalBytes: number, transferredBytes: number, ready: boolean): void {
    this.#progress = {
      diskId: this.diskId,
      totalBytes,
      transferredBytes,
      remainingBytes: Math.max(0, totalBytes - transferredBytes),
      ready: ready || this.#progress.ready,
    };
    if (ready) this.#ready.resolve();
  }

  /** Takes an event, of this job or another one. */
  take(event: MirrorEvent): void {
    if (event.name === 'JOB_STATUS_CHANGE') {
      if (event.data.id === this.job && event.data.status === 'concluded') this.#conclude();
      return;
    }
    if (event.data.device !== this.job) return;
    if (event.name === 'BLOCK_JOB_ERROR') {
      this.#failedOperation = event.data.operation;
    } else if (event.name === 'BLOCK_JOB_READY') {
      this.observe(event.data.len, event.data.offset, true);
    } else {
      this.observe(event.data.len, event.data.offset, false);
      // A job that ends with an error reports COMPLETED, even with every byte copied: the error
      // decides.
      const completed = event.name === 'BLOCK_JOB_COMPLETED';
      this.#verdict = { error: completed ? event.data.error : 'it was cancelled' };
    }
  }

  /** An I/O error has stopped the job; it ends only when it is removed. */
  stop(error: string): void {
    this.#verdict ??= { error };
    this.#fail();
  }

  /** Nothing more will be heard of the job. */
  lose(error: Error): void {
    this.#failed = true;
    this.#ready.reject(error);
    this.#settled.reject(error);
    this.#concluded.reject(error);
  }

  #conclude(): void {
    if (this.#settling && this.#verdict && !this.#verdict.error && !this.#failedOperation) {
      this.#settled.resolve();
    } else {
      this.#fail();
    }
    this.#concluded.resolve();
  }

  #fail(): void {
    this.#failed = true;
    const error = this.#failure();
    this.#ready.reject(error);
    this.#settled.reject(error);
  }

  #failure(): DomainError {
    const operation = this.#failedOperation;
    const doing =
      operation === 'read' ? ' while reading' : operation === 'write' ? ' while writing' : '';
    const error = this.#verdict?.error ?? 'it ended by itself';
    const side = operation === 'read' ? 'source' : operation ? 'destination' : undefined;
    return new DomainError(
      'MIRROR_FAILED',
      `Mirroring the disk "${this.diskId}" failed${doing}: ${error}`,
      {
        ...(this.#cause === undefined ? {} : { cause: this.#cause }),
        ...(side ? { side } : {}),
        facts: {
          disk: this.diskId,
          qemu_error: error,
          transferred_bytes: this.#progress.transferredBytes,
          total_bytes: this.#progress.totalBytes,
          ...(operation ? { operation } : {}),
        },
      },
    );
  }
}

/**
 * Joins the disks to be mirrored with the exports that the destination offers.
 *
 * @throws DomainError `REQUEST_INVALID` when an export is missing or is of no such disk
 */
export function planMirrors(disks: readonly LaunchDisk[], server: DiskServerAddress): Mirror[] {
  const wanted = disks.filter(({ mirrored }) => mirrored);
  const offered = new Map(server.exports.map((offer) => [offer.diskId, offer]));
  const mirrors = wanted.flatMap((disk) => {
    const offer = offered.get(disk.diskId);
    return offer ? [new Mirror(disk, offer)] : [];
  });
  if (mirrors.length !== wanted.length || mirrors.length !== server.exports.length) {
    throw new DomainError(
      'REQUEST_INVALID',
      `The destination exports ${[...offered.keys()].join(', ') || 'nothing'}, but the disks to mirror are ${wanted.map(({ diskId }) => diskId).join(', ') || 'none'}.`,
      { side: 'destination' },
    );
  }
  return mirrors;
}
