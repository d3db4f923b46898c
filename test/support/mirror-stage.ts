import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { DiskServerAddress, LaunchDisk } from '../../src/domain/launch-spec.js';
import { QemuMirrors } from '../../src/domain/mirrors.js';
import { diskDevice, exportId, imageNode } from '../../src/domain/names.js';
import type { MigrationLimits } from '../../src/domain/types.js';
import { type Actor, QemuStage, type StageSpec } from './qemu-stage.js';
import { ShapedCarrier } from './shaped-carrier.js';

const { signal } = new AbortController();

/**
 * Two real QEMUs and the mirrors between them, over streams that the test shapes. The guest itself
 * stands still: what it would write, the test writes through its device.
 */
export class MirrorStage implements AsyncDisposable {
  readonly carrier = new ShapedCarrier();
  readonly problems: string[] = [];
  /** The commands that the source's QEMU got. */
  readonly commands: string[];
  readonly #stage: QemuStage;
  source!: Actor;
  twin!: Actor;
  mirrors!: QemuMirrors;

  private constructor(stage: QemuStage, commands: string[]) {
    this.#stage = stage;
    this.commands = commands;
  }

  static async open(options: StageSpec): Promise<MirrorStage> {
    const commands: string[] = [];
    const transcript: StageSpec['transcript'] = (name, direction, message) => {
      const { execute } = message as { execute?: string };
      if (name === 'source' && direction === 'sent' && execute) commands.push(execute);
    };
    const stage = new MirrorStage(await QemuStage.open({ ...options, transcript }), commands);
    stage.source = await stage.#stage.start('source', 'stopped');
    stage.twin = await stage.#stage.start('twin', 'incoming');
    return stage;
  }

  get #disks(): readonly LaunchDisk[] {
    return this.#stage.spec.disks.map(({ id, sizeBytes = 0 }) => ({
      diskId: id,
      sizeBytes: Number(sizeBytes),
      allocatedBytes: 0,
      mirrored: true,
      imageSha256: '',
    }));
  }

  /** Does something to a disk as its guest would, in the words of qemu-io. */
  async guest(command: string, diskId = 'root'): Promise<void> {
    const device = `/machine/peripheral/${diskDevice(diskId)}/virtio-backend`;
    const line = `qemu-io -d ${device} "${command}"`;
    const answer = await this.source.process.qmp.execute('human-monitor-command', {
      'command-line': line,
    });
    if (/error|fail|invalid/i.test(String(answer))) throw new Error(`${line}: ${answer}`);
  }

  /** Mirrors all disks; repeating it is for mirrors that are gone. */
  async mirror(limits: Partial<MigrationLimits> = {}, fresh = true): Promise<QemuMirrors> {
    const server = await this.#serve();
    this.mirrors = await QemuMirrors.start(
      {
        process: this.source.process,
        directory: this.source.directory,
        disks: this.#disks,
        server,
        limits: { downtimeLimitMs: 300, maxBandwidth: 0, ...limits },
        carrier: this.carrier,
        fresh,
        report: (step, error) => this.problems.push(`could not ${step}: ${error}`),
      },
      { signal },
    );
    return this.mirrors;
  }

  /** Pauses the guest and ends the mirrors; both images must be equal then. */
  async settle(): Promise<void> {
    await this.source.process.qmp.execute('stop', {});
    await this.mirrors.settle({ signal });
    await this.mirrors.detach();
    await this.twin.process.qmp.execute('nbd-server-stop', {});
  }

  /** Throws where the two images of a disk differ as their guests see them. */
  async compare(diskId = 'root'): Promise<void> {
    const paths = [this.source, this.twin].map((actor) => actor.imagePath(diskId));
    await promisify(execFile)('qemu-img', ['compare', '-U', ...paths]);
  }

  async allocatedBytes(actor: Actor, diskId = 'root'): Promise<number> {
    return (await stat(actor.imagePath(diskId))).blocks * 512;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mirrors?.[Symbol.asyncDispose]();
    await this.carrier.close();
    await this.#stage[Symbol.asyncDispose]();
  }

  async #serve(): Promise<DiskServerAddress> {
    const { qmp } = this.twin.process;
    const path = join(this.twin.directory, 'nbd.sock');
    if (this.mirrors) await qmp.execute('nbd-server-stop', {});
    await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } });
    const exports = await Promise.all(
      this.#disks.map(async ({ diskId }) => {
        const exportName = randomBytes(8).toString('hex');
        await qmp.execute('block-export-add', {
          type: 'nbd',
          id: exportId(diskId),
          'node-name': imageNode(diskId),
          name: exportName,
          writable: true,
        });
        this.carrier.places.set(exportName, path);
        return { diskId, exportName, ticket: exportName };
      }),
    );
    return {
      transport: 'stream',
      host: 'there',
      address: '127.0.0.1',
      port: 1,
      pskIdentity: '',
      psk: new Uint8Array(0),
      exports,
    };
  }
}
