import type { LaunchedProcess } from '../process/launcher.js';
import type { QemuProcess } from '../process/qemu-process.js';
import type { Definition } from './definitions.js';
import type { MemoryReservation } from './host-resources.js';
import { allocatedBytes, type ImageWish, readWritten, type Written } from './images.js';
import type { FurtherQemu } from './incoming-again.js';
import type { Reservation } from './pools.js';
import type { RunningQemu } from './start-qemu.js';

/** A QEMU as the host finds it that has to keep books of it. */
export interface FoundQemu {
  readonly running?: RunningQemu;
  /** It lives and does not answer. */
  readonly silent?: LaunchedProcess;
}

/** What becomes of an incoming domain, for the host that keeps the books. */
export interface IncomingBooks {
  /** Its QEMU waits for it; `process` where it can be spoken to. */
  started(pid: number, process?: QemuProcess): void;
  /** It has come to stay. What is answered puts it on disk, and may be repeated. */
  arrived(definition: Definition, qemu: FoundQemu): () => Promise<void>;
  /** It has not come, and nothing of it is left. */
  gone(): void;
}

/** What a hold is made of. */
export interface IncomingHoldParts {
  /** What is this host's when it has come. */
  readonly definition: Definition;
  readonly wishes: readonly ImageWish[];
  readonly memory: MemoryReservation;
  readonly room: Reservation;
  /** Ends QEMU, removes everything that was made and gives the reservations back. */
  discard(): Promise<void>;
  /** Forgets how to do that. */
  keep(): void;
}

/** The QEMU of a domain that has come to stay. */
export interface ArrivedQemu {
  readonly alive: boolean;
  readonly process?: QemuProcess;
  readonly silent?: LaunchedProcess;
}

/** What this host holds for a domain on its way in, until it has come or not. */
export class IncomingHold {
  readonly #parts: IncomingHoldParts;
  readonly #books: IncomingBooks;
  /** Of the QEMU that takes the guest. */
  #memory: MemoryReservation;
  #further: FurtherQemu | undefined;
  #write: (() => Promise<void>) | undefined;

  constructor(parts: IncomingHoldParts, books: IncomingBooks) {
    this.#parts = parts;
    this.#books = books;
    this.#memory = parts.memory;
  }

  /** A further QEMU takes the guest, with memory of its own. */
  replace(further: FurtherQemu): void {
    this.#memory = further.memory;
    this.#further = further;
  }

  /** Undoes the further QEMU that there is, because only one can take the guest. */
  async discardFurther(): Promise<void> {
    await this.#further?.discard();
  }

  allocated(): Promise<Readonly<Record<string, number>>> {
    return allocatedBytes(this.#parts.wishes);
  }

  written(): Promise<Written> {
    return readWritten(this.#parts.wishes);
  }

  discard(): Promise<void> {
    return this.#parts.discard();
  }

  /** See IncomingDomain. Without a `process` its QEMU has gone, or is `silent`. */
  async arrive(qemu: ArrivedQemu): Promise<void> {
    this.#write ??= this.#join(qemu);
    await this.#write();
  }

  #join({ alive, process, silent }: ArrivedQemu): () => Promise<void> {
    const { definition, memory: first, room } = this.#parts;
    const memory = this.#memory;
    this.#parts.keep();
    room.release();
    if (memory !== first) first.release();
    if (alive && process) {
      const running = { process, memory };
      return this.#books.arrived({ ...definition, process: process.record }, { running });
    }
    memory.release();
    if (alive && silent) return this.#books.arrived(definition, { silent });
    return this.#books.arrived({ ...definition, process: undefined }, {});
  }
}
