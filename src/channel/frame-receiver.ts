import type { Socket } from 'node:net';
import { FrameReader, type FrameSink } from './frames.js';
import { type Intake, readInto } from './static-read.js';

/** As much as a TLS record holds: Node hands TLS out record by record. */
const SLOT_BYTES = 16 * 1024;

const SLOTS = 32;

/** What may still come after the reading was stopped, in slots, and as much again. */
const SPARE_SLOTS = 8;

/** What a receiver tells. */
export interface ReceiverEvents {
  /** The other end has ended its half; not all of it may have been written yet. */
  end(): void;
  /** All of it has been written, and the socket's half has ended. */
  ended(): void;
  /** The other end has broken the stream off, and says why. */
  broken(text: string): void;
  /** The other end has said what it must not say. */
  invalid(): void;
}

/** A part of the ring, and where in it lies data that is to be written. */
class Slot {
  readonly whole: Uint8Array;
  readonly at: number;
  /** What has come, headers included. */
  filled = 0;
  start = 0;
  end = 0;

  constructor(ring: Buffer, index: number) {
    this.at = index * SLOT_BYTES;
    this.whole = ring.subarray(this.at, this.at + SLOT_BYTES);
    this.clear();
  }

  get isEmpty(): boolean {
    return this.start === this.end;
  }

  clear(): void {
    this.filled = 0;
    this.start = this.at;
    this.end = this.at;
  }
}

/**
 * Takes frames from a stream and writes their data to a socket, once there is one. What comes lies
 * in a ring of slots, in which the data of neighbours is written at once. The stream is read only
 * while there is room, so that the other end waits when the socket does.
 */
export class FrameReceiver implements Intake {
  readonly #stream: Socket;
  readonly #events: ReceiverEvents;
  readonly #ring = Buffer.allocUnsafeSlow(SLOTS * SLOT_BYTES);
  readonly #slots = Array.from({ length: SLOTS }, (_, index) => new Slot(this.#ring, index));
  readonly #reader: FrameReader;
  #socket: Socket | undefined;
  /** The first slot that is not free, and how many are not; the last one is being filled. */
  #first = 0;
  #used = 1;
  #writing = false;
  /** Slots that are free when what is being written has been. */
  #freeing = 0;
  #due = false;
  #stopped = false;
  #ended = false;
  #receivedBytes = 0;
  readonly #flush = () => {
    this.#due = false;
    this.#write();
  };
  readonly #onWritten = (error?: Error | null) => {
    this.#writing = false;
    for (; this.#freeing > 0; this.#freeing--) this.#free();
    if (!error) this.#write();
  };

  constructor(stream: Socket, events: ReceiverEvents) {
    this.#stream = stream;
    this.#events = events;
    const sink: FrameSink = {
      data: (start, end) => this.#take(start, end),
      end: () => {
        this.#ended = true;
        events.end();
      },
      broken: (text) => events.broken(text),
      ready: () => events.invalid(),
      invalid: () => events.invalid(),
    };
    this.#reader = new FrameReader(sink);
  }

  /** Bytes of data that have come. */
  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** True while the other end is not listened to, because the socket takes nothing. */
  get stopped(): boolean {
    return this.#stopped;
  }

  start(): void {
    readInto(this.#stream, this);
  }

  /** Where the data goes. */
  attach(socket: Socket): void {
    this.#socket = socket;
    this.#write();
  }

  room(): Uint8Array {
    const { whole, filled } = this.#current;
    if (filled === 0) return whole;
    // A new slot for each record while there are many; none is wasted when they run short.
    const isScarce = this.#used >= SLOTS / 2;
    if (isScarce && filled < SLOT_BYTES) return whole.subarray(filled);
    this.#used++;
    return this.#current.whole;
  }

  took(sizeBytes: number): boolean {
    const slot = this.#current;
    const start = slot.at + slot.filled;
    slot.filled += sizeBytes;
    this.#reader.read(this.#ring, start, start + sizeBytes);
    if (!this.#due) {
      this.#due = true;
      // What else there is to be read now is written together with it.
      setImmediate(this.#flush);
    }
    this.#stopped = this.#used > SLOTS - SPARE_SLOTS;
    return !this.#stopped;
  }

  /** The one that is being filled. */
  get #current(): Slot {
    return this.#slot(this.#used - 1);
  }

  /** Counted from the first one that is not free. */
  #slot(index: number): Slot {
    return this.#slots[(this.#first + index) % SLOTS] as Slot;
  }

  #take(start: number, end: number): void {
    const slot = this.#current;
    this.#receivedBytes += end - start;
    if (slot.isEmpty) {
      slot.start = start;
      slot.end = start;
    }
    // Data behind a header within the slot moves up to what lies before it.
    if (slot.end !== start) this.#ring.copyWithin(slot.end, start, end);
    slot.end += end - start;
  }

  /** Writes what lies together, unless something is being written. */
  #write(): void {
    const socket = this.#socket;
    if (this.#writing || !socket) return;
    while (this.#used > 1 && this.#slot(0).isEmpty) this.#free();
    const { start, isEmpty } = this.#slot(0);
    if (isEmpty) {
      if (this.#ended) this.#end(socket);
      return;
    }
    let { end } = this.#slot(0);
    let count = 1;
    while (count < this.#used && this.#first + count < SLOTS && this.#slot(count).start === end) {
      end = this.#slot(count++).end;
    }
    const last = this.#slot(count - 1);
    // The slot that is being filled stays; what comes into it lies behind what is being written.
    if (last === this.#current) last.start = last.end;
    this.#freeing = last === this.#current ? count - 1 : count;
    this.#writing = true;
    if (socket.writable) socket.write(this.#ring.subarray(start, end), this.#onWritten);
  }

  #free(): void {
    this.#slot(0).clear();
    this.#first = (this.#first + 1) % SLOTS;
    this.#used--;
    if (!this.#stopped || this.#used > SLOTS / 2 || this.#stream.destroyed) return;
    this.#stopped = false;
    this.#stream.resume();
  }

  #end(socket: Socket): void {
    this.#ended = false;
    // A socket that fails is ended as well; its own error tells why.
    socket.once('finish', () => this.#events.ended());
    if (socket.writable) socket.end();
  }
}
