import { appendFileSync } from 'node:fs';
import type { LaunchedProcess, Launcher, LaunchRequest } from '../../../src/process/launcher.js';
import type { ProcessRecord } from '../../../src/process/proc.js';
import { parseArgv } from './argv.js';
import { Faults } from './faults.js';
import type { GuestOptions } from './migration-machine.js';
import { FakeQemu } from './qemu.js';

/** Beyond any pid of a real process, so that no test can ever signal one. */
let nextPid = 5_000_000;

/**
 * Starts fake QEMUs inside this process: one launcher stands for one host. It plays the kernel too,
 * so it must live on when an agent of that host is restarted.
 */
export class FakeLauncher implements Launcher {
  /** Every fake QEMU ever started on this host, oldest first. */
  readonly qemus: FakeQemu[] = [];
  /** Planned misbehaviours of all QEMUs of this host, also of later ones. */
  readonly faults = new Faults();
  /** Applies to QEMUs started from now on. */
  guest: GuestOptions;
  readonly #processes = new Map<number, FakeQemu>();

  constructor(guest: Partial<GuestOptions> = {}) {
    this.guest = { ramBytes: 512 * 1024, passes: 2, idle: false, ...guest };
  }

  /** Those that still run. */
  get alive(): readonly FakeQemu[] {
    return this.qemus.filter((qemu) => qemu.alive);
  }

  async launch(
    request: LaunchRequest,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<LaunchedProcess> {
    options.signal?.throwIfAborted();
    const pid = nextPid++;
    const record = { pid, startTime: pid };
    let qemu: FakeQemu;
    try {
      qemu = new FakeQemu(parseArgv(request.argv), this.guest, this.faults);
    } catch (error) {
      // The real one is started, complains in its log, and ends with 1.
      appendFileSync(
        request.logPath,
        `fake-qemu: ${error instanceof Error ? error.message : error}\n`,
      );
      const exited = Promise.resolve({ code: 1, signal: undefined });
      return { record, exited, kill: () => false, hurry: () => undefined };
    }
    this.qemus.push(qemu);
    this.#processes.set(pid, qemu);
    await qemu.start(pid);
    return processOf(qemu, record);
  }

  async adopt(record: ProcessRecord): Promise<LaunchedProcess | undefined> {
    const qemu = this.#processes.get(record.pid);
    return qemu?.alive && record.startTime === record.pid ? processOf(qemu, record) : undefined;
  }

  /** Ends all of them, for the end of a test. */
  killAll(): void {
    for (const qemu of this.qemus) qemu.die();
  }
}

function processOf(qemu: FakeQemu, record: ProcessRecord): LaunchedProcess {
  return {
    record,
    exited: qemu.exited,
    kill: (signal) => {
      if (!qemu.alive) return false;
      if (signal === 'SIGKILL') qemu.die();
      else qemu.exit(0);
      return true;
    },
    hurry: () => undefined,
  };
}
