/*
 * What agents say to each other on a stream, besides the bytes of their QEMUs. Each frame begins
 * with four bytes: its type, and the length of what follows. TLS could end one direction by itself,
 * but the end of a connection that was cut looks the same to Node, and has no reason with it.
 */

/** What a frame is. */
export const FRAME = {
  data: 0,
  /** No further data comes; what goes the other way goes on. */
  end: 1,
  /** Nothing but a sign of life. */
  alive: 2,
  /** The stream is broken off; a text says why. */
  broken: 3,
  /** The ticket was good: the first thing that a door says. */
  ready: 4,
} as const;

/** The length of what each frame begins with. */
export const HEADER_BYTES = 4;

/** The longest text of why a stream was broken off, in bytes. */
export const TEXT_LIMIT_BYTES = 1024;

/** Writes the beginning of a frame into the first bytes of a buffer. */
export function writeHeader(buffer: Buffer, type: number, lengthBytes: number): void {
  buffer.writeUInt32BE(type * 2 ** 24 + lengthBytes, 0);
}

/** A whole frame. */
export function frame(type: number, text = ''): Buffer {
  const body = Buffer.from(text).subarray(0, TEXT_LIMIT_BYTES);
  const whole = Buffer.alloc(HEADER_BYTES + body.length);
  writeHeader(whole, type, body.length);
  whole.set(body, HEADER_BYTES);
  return whole;
}

/** Hears what stands in frames. */
export interface FrameSink {
  /** Data lies in the bytes that are being read, from `start` to before `end`. */
  data(start: number, end: number): void;
  end(): void;
  broken(text: string): void;
  ready(): void;
  /** Something came that is no frame, or in the wrong order. Nothing is read from then on. */
  invalid(): void;
}

/** Reads frames, however they are cut. Keeps nothing but a header and the text of `broken`. */
export class FrameReader {
  readonly #sink: FrameSink;
  #header = 0;
  #headerBytes = 0;
  #type: number = FRAME.data;
  #leftBytes = 0;
  #text: Buffer | undefined;
  #ended = false;
  #over = false;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** Reads the bytes from `start` to before `end`. */
  read(bytes: Uint8Array, start: number, end: number): void {
    for (let at = start; at < end && !this.#over; ) {
      if (this.#leftBytes > 0) {
        const stop = Math.min(end, at + this.#leftBytes);
        this.#leftBytes -= stop - at;
        if (this.#text) this.#takeText(bytes.subarray(at, stop));
        else this.#sink.data(at, stop);
        at = stop;
      } else {
        this.#header = this.#header * 256 + (bytes[at++] ?? 0);
        if (++this.#headerBytes === HEADER_BYTES) this.#begin();
      }
    }
  }

  #begin(): void {
    this.#type = Math.floor(this.#header / 2 ** 24);
    const lengthBytes = this.#header % 2 ** 24;
    this.#header = 0;
    this.#headerBytes = 0;
    if (!this.#isAllowed(lengthBytes)) {
      this.#over = true;
      this.#sink.invalid();
      return;
    }
    this.#leftBytes = lengthBytes;
    if (this.#type === FRAME.broken) this.#takeText(Buffer.alloc(0));
    else if (this.#type === FRAME.ready) this.#sink.ready();
    else if (this.#type === FRAME.end) {
      this.#ended = true;
      this.#sink.end();
    }
  }

  #isAllowed(lengthBytes: number): boolean {
    switch (this.#type) {
      case FRAME.data:
        return lengthBytes > 0 && !this.#ended;
      case FRAME.end:
        return lengthBytes === 0 && !this.#ended;
      case FRAME.alive:
      case FRAME.ready:
        return lengthBytes === 0;
      case FRAME.broken:
        return lengthBytes <= TEXT_LIMIT_BYTES;
      default:
        return false;
    }
  }

  #takeText(bytes: Uint8Array): void {
    this.#text = Buffer.concat([this.#text ?? Buffer.alloc(0), bytes]);
    if (this.#leftBytes > 0) return;
    this.#over = true;
    this.#sink.broken(this.#text.toString());
  }
}
