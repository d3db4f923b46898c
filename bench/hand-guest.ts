import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LinuxGuest } from '../scripts/guest/linux-guest.js';
import type { LaunchMode, LaunchPlan } from '../src/domain/launch-arguments.js';
import { launchArguments } from '../src/domain/launch-arguments.js';
import { findOnPath } from '../src/process/binary.js';
import { DetachedLauncher } from '../src/process/detached-launcher.js';
import { QemuImg } from '../src/process/qemu-img.js';
import { QemuProcess } from '../src/process/qemu-process.js';
import { readDisk } from '../test/support/blocks.js';
import { Ledger } from '../test/support/ledger.js';
import { SerialLog, type SerialSegment } from '../test/support/serial-log.js';
import { type HandMove, moveByHand } from './by-hand.js';

const WAIT = { limitMs: 120_000 };

interface Stage {
  readonly process: QemuProcess;
  readonly serial: SerialLog;
  readonly directory: string;
}

/**
 * A guest whose QEMUs are started and moved by hand, with the command line that Drover would use.
 */
export class HandGuest implements AsyncDisposable {
  readonly #plan: LaunchPlan;
  readonly #kernel: LinuxGuest;
  readonly #folder: string;
  readonly #tools: { readonly qemu: string; readonly images: QemuImg };
  readonly #segments: SerialSegment[] = [];
  #stages: Stage[] = [];
  #count = 0;

  private constructor(
    plan: LaunchPlan,
    kernel: LinuxGuest,
    folder: string,
    tools: { readonly qemu: string; readonly images: QemuImg },
  ) {
    this.#plan = plan;
    this.#kernel = kernel;
    this.#folder = folder;
    this.#tools = tools;
    process.once('exit', this.#onExit);
  }

  /** Starts a guest; resolves when it works. */
  static async start(plan: LaunchPlan, kernel: LinuxGuest): Promise<HandGuest> {
    const [qemu, images] = await Promise.all(['qemu-system-x86_64', 'qemu-img'].map(find));
    const tools = { qemu: qemu ?? '', images: new QemuImg(images ?? '') };
    const folder = await mkdtemp(join(tmpdir(), 'drover-hand-'));
    const guest = new HandGuest(plan, kernel, folder, tools);
    try {
      const { process, serial } = await guest.#launch('stopped');
      await process.qmp.execute('cont');
      await serial.waitForReady(WAIT);
      await serial.waitForWrites(200, WAIT);
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Moves it into a new QEMU and answers the figures and the gap between its heartbeats. */
  async move(settings: { downtimeLimitMs: number }): Promise<HandMove & { guestGapMs: number }> {
    const source = this.#current;
    const destination = await this.#launch('incoming');
    const move = await moveByHand({
      source: source.process.qmp,
      destination: destination.process.qmp,
      diskIds: this.#plan.spec.disks.map(({ id }) => id),
      directory: destination.directory,
      ...settings,
    });
    await this.#end(source);
    await destination.serial.waitForWrites(1, WAIT);
    const ledger = new Ledger([...this.#segments, ...destination.serial.segments]);
    return { ...move, guestGapMs: ledger.steps.at(-1)?.hostGapMs ?? Number.NaN };
  }

  /** Resolves when it has had some more writes acknowledged. */
  async work(writes: number): Promise<void> {
    await this.#current.serial.waitForWrites(writes, WAIT);
  }

  /** Lets it stand still, so that it leaves the machine to another one, or go on. */
  async pause(paused: boolean): Promise<void> {
    await this.#current.process.qmp.execute(paused ? 'stop' : 'cont');
  }

  /** Ends it and counts; everything that is wrong, in words. */
  async judge(): Promise<readonly string[]> {
    const { directory } = this.#current;
    await this.#current.process.quit();
    this.#segments.push(this.#current.serial.cut());
    const ledger = new Ledger(this.#segments);
    const faults = ledger.clean ? [] : [ledger.describeFaults()];
    for (const { id, format } of this.#plan.spec.disks) {
      const path = imagePath(directory, id);
      const content = await readDisk(path, { guest: 'linux', format, slots: 2048 });
      const lost = ledger.lostWrites(content).length;
      if (lost > 0) faults.push(`${id}: ${lost} acknowledged writes are missing`);
    }
    return faults;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { process, serial } of this.#stages) {
      serial[Symbol.dispose]();
      await process.kill();
    }
    process.off('exit', this.#onExit);
    await rm(this.#folder, { recursive: true, force: true });
  }

  // Its QEMUs would outlive this process.
  readonly #onExit = (): void => {
    rmSync(this.#folder, { recursive: true, force: true });
    for (const stage of this.#stages) process.kill(stage.process.record.process.pid, 'SIGKILL');
  };

  get #current(): Stage {
    const stage = this.#stages[0];
    if (!stage) throw new Error('The guest has no QEMU.');
    return stage;
  }

  async #end(stage: Stage): Promise<void> {
    await stage.process.quit();
    this.#segments.push(stage.serial.cut());
    stage.serial[Symbol.dispose]();
    this.#stages = this.#stages.filter((other) => other !== stage);
    await rm(stage.directory, { recursive: true, force: true });
  }

  async #launch(mode: LaunchMode): Promise<Stage> {
    const directory = join(this.#folder, String(++this.#count));
    await mkdir(directory, { mode: 0o700 });
    const { spec } = this.#plan;
    for (const { id, format, sizeBytes } of spec.disks) {
      const path = imagePath(directory, id);
      if (format === 'raw') await writeFile(path, '');
      if (format === 'raw') await truncate(path, sizeBytes);
      else await this.#tools.images.create(path, format, sizeBytes);
    }
    const serialPath = join(directory, 'serial.log');
    const places = {
      images: Object.fromEntries(
        spec.disks.map(({ id, format }) => [
          id,
          { driver: 'file' as const, path: imagePath(directory, id), format },
        ]),
      ),
      kernel: { path: this.#kernel.kernelPath, initrdPath: this.#kernel.initramfsPath },
      serialPath,
      taps: {},
    };
    const process = await QemuProcess.start(new DetachedLauncher(), {
      binary: this.#tools.qemu,
      uuid: spec.uuid,
      name: spec.name,
      directory,
      argv: launchArguments(this.#plan, places, mode),
    });
    const serial = SerialLog.file(serialPath, `hand ${this.#count}`);
    const stage = { process, serial, directory };
    this.#stages.push(stage);
    return stage;
  }
}

function imagePath(directory: string, id: string): string {
  return join(directory, `${id}.img`);
}

async function find(program: string): Promise<string> {
  const path = await findOnPath(program);
  if (path === undefined) throw new Error(`There is no ${program} on PATH.`);
  return path;
}
