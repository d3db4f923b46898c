import type { QemuProcess } from '../process/qemu-process.js';
import type { EventListener } from '../qmp/event-listener.js';
import type { DataDoors } from './data-ports.js';
import type { DomainError } from './errors.js';
import { QemuFaults } from './faults.js';
import type { TransportOptions } from './incoming-types.js';
import { QemuRamReceive } from './ram-receive.js';

/** How long a QEMU that is not needed any more may take to close its images, in milliseconds. */
const QUIT_LIMIT_MS = 5_000;

/**
 * One QEMU started with `-S -incoming defer`: it takes one RAM stream, whatever becomes of that.
 */
export class IncomingQemu implements Disposable {
  readonly process: QemuProcess;
  /** Private folder, for sockets and the key. */
  readonly directory: string;
  readonly events: EventListener<'MIGRATION'>;
  /** Once it is prepared for its RAM. */
  ram: Promise<QemuRamReceive> | undefined;
  /** True once its end is wanted, or nobody's business here. */
  over = false;
  alive = true;
  /** True once its monitor closed without anybody's having asked for its end. */
  #broke = false;
  readonly #faults: QemuFaults;

  /** `onDeath` hears of an end that nobody wanted. */
  constructor(process: QemuProcess, directory: string, onDeath: (error: DomainError) => void) {
    this.process = process;
    this.directory = directory;
    this.#faults = new QemuFaults(process, 'destination');
    this.events = process.qmp.listen('MIGRATION');
    void process.qmp.closed.then(async () => {
      this.#broke = !this.over;
      if (await process.reconnected().catch(() => undefined)) this.#broke = false;
    });
    void process.exited.then(async ({ signal }) => {
      this.alive = false;
      // Whoever notices first that its sockets have closed may want its end by now, which it had
      // come to before: its own end is not to be taken for that.
      const crashed = this.#broke && signal !== 'SIGKILL';
      if (!this.over || crashed) onDeath(await this.ended('a domain was on its way in'));
    });
  }

  /** Runs `migrate-incoming`, once. */
  async acceptRam(doors: DataDoors, options: TransportOptions): Promise<QemuRamReceive> {
    const parts = { qmp: this.process.qmp, directory: this.directory, doors };
    this.ram ??= this.explained('preparing for the RAM', QemuRamReceive.start(parts, options));
    return await this.ram;
  }

  /** Breaks its RAM stream, as far as this agent carries it. */
  async reset(reason: Error): Promise<void> {
    const ram = await this.ram?.catch(() => undefined);
    ram?.reset(reason);
  }

  /**
   * Gives every error of some work its reason; `doing` completes the sentence "... while <doing>".
   */
  async explained<T>(doing: string, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw await this.#faults.explain(error, doing);
    }
  }

  /** The error of a QEMU that has gone. */
  ended(doing: string): Promise<DomainError> {
    return this.#faults.ended(doing);
  }

  /** Ends it in good order: nothing that it holds of its images may stay unwritten. */
  async quit(): Promise<void> {
    this.over = true;
    await this.process.quit({ limitMs: QUIT_LIMIT_MS });
    this[Symbol.dispose]();
  }

  async kill(): Promise<void> {
    this.over = true;
    await this.process.kill();
  }

  [Symbol.dispose](): void {
    this.events[Symbol.dispose]();
    this.#faults[Symbol.dispose]();
  }
}
